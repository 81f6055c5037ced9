"""The list of CRD files that `make crds` fetches is that of the files which the tests were written against."""

import pytest
import yaml

from tests.contracts.custom_resources import schema_folder
from tests.kubernetes_api.crds import FILES, SOURCES, fetch
from tests.kubernetes_api.resources import read_catalogue


def test_every_file_is_listed_and_nothing_else():
    folder = schema_folder()

    assert {str(file.relative_to(folder)) for file in folder.rglob("*.yaml")} == set(FILES)


def test_the_files_that_tell_their_version_are_of_the_listed_one():
    tags = {source.folder: source.tag for source in SOURCES}
    told = {}
    for place in FILES:
        metadata = yaml.load((schema_folder() / place).read_text(), yaml.CSafeLoader)["metadata"]
        for annotation in (
            "gateway.networking.k8s.io/bundle-version",
            "operator.prometheus.io/version",
        ):
            if version := metadata["annotations"].get(annotation):
                told[place.partition("/")[0]] = "v" + version.removeprefix("v")

    assert told == {folder: tags[folder] for folder in ("gateway-api", "prometheus-operator")}


def test_what_was_fetched_is_what_a_server_serves(tmp_path):
    by_url = {url: (schema_folder() / place).read_text() for place, url in FILES.items()}

    fetch(tmp_path, by_url.__getitem__)

    assert read_catalogue(tmp_path).files.keys() == read_catalogue(schema_folder()).files.keys()


def test_nothing_is_written_unless_everything_came(tmp_path):
    urls = iter(FILES.values())
    last = list(FILES.values())[-1]

    def get(url: str) -> str:
        if url == last:
            raise ConnectionError(next(urls))
        return ""

    with pytest.raises(ConnectionError):
        fetch(tmp_path, get)

    assert list(tmp_path.iterdir()) == []
