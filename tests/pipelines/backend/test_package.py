"""The project's archive: what goes, what stays, and that it is small and the same each time."""

import os
import zipfile

import pytest

from pipelines.backend.package import pack_project
from registry.errors import BadInput


@pytest.fixture
def a_project(tmp_path):
    root = tmp_path / "project"
    for path in (
        "MLproject", "recipes/a.yaml", "pipelines/x.py", ".dockerignore",
        ".git/config", ".venv/lib/big.so", ".venv-triton/x", ".shipway/state/y", "pipelines/__pycache__/x.pyc",
        ".env", ".env.local", "signing.key", "deep/er/cert.pem", ".ruff_cache/z", "data/large.bin",
        ".git-credentials", ".pypirc", ".kube/config", ".docker/config.json", "keys/id_rsa", "keys/id_ed25519", "user.p12",
    ):  # fmt: skip
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return root


def packed(root, into, **more):
    into.mkdir(exist_ok=True)
    package = pack_project(root, into, **{"exclude": ("data",), "max_mib": 1, **more})
    return package, zipfile.ZipFile(package.file).namelist()


def test_code_goes_and_what_can_be_made_again_or_may_be_secret_stays(a_project, tmp_path) -> None:
    package, names = packed(a_project, tmp_path / "out")
    assert names == [".dockerignore", "MLproject", "pipelines/x.py", "recipes/a.yaml"]
    assert (package.files, package.size_bytes) == (4, sum(len(name) for name in names))


def test_the_same_files_have_the_same_bytes_whenever_they_were_written(a_project, tmp_path) -> None:
    first, _ = packed(a_project, tmp_path / "one")
    os.utime(a_project / "MLproject", (1, 1))
    (a_project / ".git" / "config").write_text("another")
    second, _ = packed(a_project, tmp_path / "two")
    assert first.file.read_bytes() == second.file.read_bytes()
    assert first.digest == second.digest
    (a_project / "MLproject").write_text("changed")
    assert packed(a_project, tmp_path / "three")[0].digest != first.digest
    (a_project / "MLproject").write_text("MLproject")
    (a_project / "recipes" / "a.yaml").rename(a_project / "recipes" / "b.yaml")
    assert packed(a_project, tmp_path / "four")[0].digest != first.digest


def test_a_project_that_is_too_large_is_refused_with_its_largest_files(a_project, tmp_path) -> None:
    with (a_project / "data" / "large.bin").open("wb") as file:
        file.truncate(3 << 20)
    with pytest.raises(BadInput, match=r"3\.0 MiB.*data/large\.bin \(3\.0 MiB\).*exclude"):
        packed(a_project, tmp_path / "out", exclude=())
    assert "data/large.bin" not in packed(a_project, tmp_path / "out", exclude=("data/*",))[1]


def test_a_link_within_is_sent_as_its_file_and_one_that_leads_out_is_refused(
    a_project, tmp_path
) -> None:
    (a_project / "link.yaml").symlink_to("recipes/a.yaml")
    package, names = packed(a_project, tmp_path / "out")
    assert "link.yaml" in names
    assert zipfile.ZipFile(package.file).read("link.yaml") == b"recipes/a.yaml"
    (tmp_path / "outside").write_text("secret")
    (a_project / "out.yaml").symlink_to(tmp_path / "outside")
    with pytest.raises(BadInput, match=r"out\.yaml"):
        packed(a_project, tmp_path / "out")
    packed(a_project, tmp_path / "out", exclude=("data", "out.yaml"))


def test_a_folder_that_is_a_link_is_refused_by_name(a_project, tmp_path) -> None:
    (a_project / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="elsewhere"):
        packed(a_project, tmp_path / "out")
