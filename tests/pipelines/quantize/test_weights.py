"""Weights that cannot become a model are found before hours of work."""

import pytest
import torch
from safetensors.torch import save_file

from pipelines.checkpoint import check_weights
from pipelines.finite import check_numbers
from registry.errors import SourceInvalid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_none_is_found_and_its_tensor_named(tmp_path, dtype, bad) -> None:
    spoilt = torch.zeros(40, 8, dtype=dtype)
    spoilt[17, 3] = bad
    save_file({"a": torch.ones(3), "b.weight": spoilt}, tmp_path / "model.safetensors")
    with pytest.raises(
        SourceInvalid, match=r"b\.weight in model\.safetensors of it holds 1 NaN or infinities"
    ):
        check_numbers(tmp_path, where="it")


def test_sound_weights_pass_and_whole_numbers_are_not_asked(tmp_path) -> None:
    seen: list[float] = []
    whole = torch.full((4,), -1, dtype=torch.int32)
    save_file({"a": torch.ones(3), "b": whole}, tmp_path / "model.safetensors")
    check_weights(tmp_path, where="the base")
    check_numbers(tmp_path, where="it", on_bytes=seen.append)
    assert seen == [12]


def test_a_file_that_is_cut_short_is_refused_by_its_header(tmp_path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(300)}, file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SourceInvalid, match=r"model\.safetensors of .* is cut short"):
        check_weights(tmp_path, where="the base")


def test_a_folder_without_weights_is_refused(tmp_path) -> None:
    with pytest.raises(SourceInvalid, match=r"no \*\.safetensors"):
        check_weights(tmp_path, where="the base")


def test_an_empty_tensor_and_eight_bit_floats_can_be_asked_too(tmp_path) -> None:
    spoilt = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    save_file({"a": torch.ones(0), "b": spoilt}, tmp_path / "model.safetensors")
    with pytest.raises(SourceInvalid, match="b in"):
        check_numbers(tmp_path, where="it")
