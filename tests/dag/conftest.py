"""A project with a finished run, which the tests that run DVC share."""

import pytest

from tests import checkout
from tests.checkout import Project
from tests.dag.toy import BASE, IMAGES, draw_images


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With a finished run on a folder of 24 tiny images."""
    made = checkout.fresh(tmp_path_factory.mktemp("dag") / "project")
    draw_images(made.images, IMAGES)
    made.experiment({**BASE, "root": made.images, "extract.precision": "float32", "extract.engine": "torch"})
    made.commit("first run")
    return made
