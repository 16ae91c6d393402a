"""What all tests need."""

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch

# Started in the background of a script, pytest ignores Ctrl-C, and so would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; two threads in each would wait for one another
    torch.set_num_threads(1)


RUNS = "test_runs_and_shows_what_is_stored"  # a notebook, from its first cell to its last


def pytest_collection_modifyitems(items):
    """The notebooks come last: each is short, so that several processes end together."""
    items.sort(key=lambda item: RUNS in item.nodeid)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay in one process, as they share what they set up; but a notebook is run by the first that is free."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if RUNS in nodeid else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # it would begin with what has most tests
    return Scheduling(config, log)


@pytest.fixture(autouse=True, scope="module")
def environment():
    """What the tests of a file, or a command that they call, leave in the environment is gone after them."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(params=["cpu", *["cuda"] * torch.cuda.is_available()], scope="module")
def device(request):
    """Each device that the values are compared on: what a test makes is made there. (MPS has no float64 to compare with.)"""
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)


@pytest.fixture(scope="session")
def site_maker():
    """The script that builds the pages, as a module."""
    spec = importlib.util.spec_from_file_location("make_site", Path(__file__).parents[1] / "nbs" / "site" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def site(site_maker, tmp_path_factory):
    """The folder of the pages; a warning would have ended it."""
    folder = tmp_path_factory.mktemp("site")
    site_maker.main(folder)
    return folder / "html"


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, or Chrome where there is none, which asks for nothing from elsewhere by itself."""
    from playwright.sync_api import Error, sync_playwright
    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(
                executable_path=path, channel=None if path else "chrome", args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        except Error as error:
            pytest.fail(f'no Chromium starts: install it (`apt-get install chromium`), or leave these tests out with `pytest -m "not browser and not busy"`\n{error}')
        yield found
        found.close()
