from gatepass.store.base import StoreReading

READING = StoreReading({}, at_s=5000.0, started_s=100.0, finished_s=100.5)


def test_a_moment_of_the_store_is_never_put_too_late_on_our_clock():
    assert READING.to_local_s(5000.0) == 100.0
    assert READING.to_local_s(4900.0) == 0.0


def test_local_time_is_never_too_late_on_the_stores_clock():
    assert READING.to_store_s(100.5) == 5000.0
    assert READING.to_store_s(110.5) == 5010.0
