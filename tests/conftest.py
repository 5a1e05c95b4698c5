import pytest

from sa_lib import data


@pytest.fixture(scope="session", autouse=True)
def small_cache(tmp_path_factory):
    """What the tests train lies in a folder of their own, never in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")
