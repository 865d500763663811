from tests.unit.http_client.loop import DrivenLoop


def pytest_asyncio_loop_factories() -> dict[str, type[DrivenLoop]]:
    return {"driven": DrivenLoop}
