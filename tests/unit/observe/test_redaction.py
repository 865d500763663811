from gatepass.observe.redaction import MASK, REMEMBERED, Redactor


def test_a_learned_value_is_masked_wherever_it_stands():
    redactor = Redactor()
    redactor.learn("s3cret-value")
    assert redactor.mask("Bearer s3cret-value refused: s3cret-value") == f"Bearer {MASK} refused: {MASK}"


def test_the_url_encoded_form_is_masked_too():
    redactor = Redactor()
    redactor.learn("a/b+c d=e")
    assert redactor.mask("?secret=a%2Fb%2Bc%20d%3De") == f"?secret={MASK}"
    assert redactor.mask("secret=a%2Fb%2Bc+d%3De") == f"secret={MASK}"


def test_a_short_value_masks_no_ordinary_words():
    redactor = Redactor()
    redactor.learn("key")
    assert redactor.mask("the key is missing") == "the key is missing"


def test_old_tokens_are_forgotten_but_configured_secrets_stay():
    redactor = Redactor()
    redactor.learn("configured-secret", permanent=True)
    redactor.learn("configured-secret")
    for number in range(REMEMBERED + 1):
        redactor.learn(f"token-{number:05}")
    assert redactor.mask("configured-secret") == MASK
    assert redactor.mask("token-00000") == "token-00000"
    assert redactor.mask(f"token-{REMEMBERED:05}") == MASK
