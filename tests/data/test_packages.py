import base64
import hashlib
import re
import subprocess
import sys
import zipfile

import pytest

from attn_core.data import catalogues, fonts, packages, pretrained


def write_wheel(folder, name, files):
    """A wheel small enough to build here, so that pip has something to install without network."""
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    files = files | {f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"}
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture
def offline_index(tmp_path, monkeypatch):
    """pip sees one folder of wheels and nothing else; the data folder is empty."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("ATTN_CORE_DATA", str(tmp_path / "data"))
    return index


@pytest.fixture
def requirements(offline_index, tmp_path):
    wheel = write_wheel(
        offline_index,
        "messages",
        {"messages/locale/fr/LC_MESSAGES/django.po": "catalogue", "messages/program.py": "code"},
    )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path = tmp_path / "packages.txt"
    path.write_text(f"messages==1.0 --hash=sha256:{digest}\n")
    return path


def test_install_keeps_the_data_and_drops_the_program(requirements):
    assert packages.install(requirements)
    kept = packages.data_folder() / "packages"
    assert (kept / "messages/locale/fr/LC_MESSAGES/django.po").read_text() == "catalogue"
    assert not (kept / "messages/program.py").exists()


def test_a_second_install_does_nothing_until_the_pins_change(requirements):
    assert packages.install(requirements)
    assert not packages.install(requirements)
    requirements.write_text(requirements.read_text() + "# changed\n")
    assert packages.install(requirements)


def test_a_file_with_another_hash_is_refused(requirements, offline_index):
    write_wheel(offline_index, "messages", {"messages/locale/fr/LC_MESSAGES/django.po": "forged"})
    with pytest.raises(RuntimeError, match="could not install"):
        packages.install(requirements)
    assert not (packages.data_folder() / "packages").exists()


def test_a_refused_update_leaves_the_old_data_in_place(requirements):
    packages.install(requirements)
    requirements.write_text(re.sub("sha256:.*", "sha256:" + "0" * 64, requirements.read_text()))
    with pytest.raises(RuntimeError, match="could not install"):
        packages.install(requirements)
    assert (packages.data_folder() / "packages/messages/locale/fr/LC_MESSAGES/django.po").is_file()


def test_every_data_package_is_pinned_with_a_hash_and_has_a_licence():
    lines = [
        line for line in packages.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")
    ]
    pattern = r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert {line.split("==")[0] for line in lines} == {
        row[0] for row in packages.table(trained=True)
    }
    assert all(package.licence and package.what for package in packages.PACKAGES)


@pytest.mark.parametrize(
    "load",
    [
        lambda: catalogues.pairs("fr"),
        fonts.chinese_path,
        pretrained.minilm_folder,
        pretrained.whisper_tokenizer,
    ],
)
def test_missing_data_names_the_command_that_installs_it(load, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_CORE_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(packages.MissingDataError, match=re.escape("python -m attn_core.data")):
        load()


def test_a_package_on_the_import_path_counts_only_at_the_pinned_version(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_CORE_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    info = tmp_path / "spyder-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spyder\nVersion: 0.0.1\n")
    with pytest.raises(packages.MissingDataError):
        packages.distribution("spyder")
    version = packages.pinned_versions()["spyder"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: spyder\nVersion: {version}\n")
    assert packages.distribution("spyder").version == version


def test_a_cached_value_is_made_once_and_again_when_the_code_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTN_CORE_DATA", str(tmp_path / "data"))
    code, made = tmp_path / "reader.py", []

    def make():
        made.append(1)
        return ["中", len(made)]

    code.write_text("one rule")
    assert packages.cached("value", str(code), make) == ["中", 1]
    assert packages.cached("value", str(code), make) == ["中", 1]
    code.write_text("another rule")
    assert packages.cached("value", str(code), make) == ["中", 2]
    assert len(list((tmp_path / "data/cache").iterdir())) == 1


def test_the_command_lists_every_package_with_its_licence():
    command = [sys.executable, "-m", "attn_core.data", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, version, licence, _ in packages.table(trained=True):
        assert re.search(rf"{re.escape(name)} +{re.escape(version)} +{re.escape(licence)}", listed)
