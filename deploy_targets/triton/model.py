"""The model of a repository, on Triton's python backend: the engine of `deploy_targets.engine` behind Triton's batcher.

It is copied into the repository as `<endpoint>/<version>/model.py`, with the modules that it imports beside it, and runs
there and nowhere else. A checkpoint that is not byte for byte the one that was evaluated is not loaded. Whether answers
are streamed says the configuration: with a response cache they come whole, for Triton caches no others.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy_targets.engine import tensors
from deploy_targets.engine.chat import AnswerText, BadRequest
from deploy_targets.engine.generation import Generator, Row
from registry.digests import describe_folder
from registry.errors import IntegrityError

# Triton's own module, which is there only inside of it.
_triton: Any = importlib.import_module("triton_python_backend_utils")


class TritonPythonModel:
    """What Triton looks for in this file, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Verifies the checkpoint and loads it.

        Raises:
            IntegrityError: its bytes have another digest; the version does not become ready.
        """
        config = json.loads(args["model_config"])
        told = {name: one["string_value"] for name, one in config["parameters"].items()}
        folder = Path(__file__).parent / tensors.CHECKPOINT_FOLDER
        found = describe_folder(folder).digest
        if found != told["digest"]:
            message = (
                f"The checkpoint in this repository is {found}, but {told['digest']} was evaluated. It is not served; "
                "delete the repository in S3 and apply the version again."
            )
            raise IntegrityError(message)
        self._generator = Generator(
            folder,
            threads=int(told["threads"]),
            max_context_tokens=int(told["max_context_tokens"]),
        )
        self._streams: bool = _triton.using_decoupled_model_transaction_policy(config)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answers one batch; Triton has formed it."""
        answers = [_Answer(request, self._generator, streams=self._streams) for request in requests]
        under_way = [answer for answer in answers if answer.row is not None]

        def step() -> None:
            for answer in under_way:
                answer.step()

        if under_way:
            rows = [answer.row for answer in under_way if answer.row is not None]
            try:
                self._generator.generate(rows, step)
            except Exception as error:  # noqa: BLE001 - it belongs to the requests of this batch, who are told
                for answer in under_way:
                    answer.fail(error)
        return None if self._streams else [answer.response for answer in answers]


class _Answer:
    """One request on its way through the model."""

    def __init__(self, request: Any, generator: Generator, *, streams: bool) -> None:
        self._generator = generator
        self._sender: Any = request.get_response_sender() if streams else None
        self._caller: Any = self._sender or request
        self._parts: list[str] = []
        self._is_over = False
        self.row: Row | None = None
        self.response: Any = None
        """Set at the end, where answers are not streamed."""
        try:
            asked = tensors.decode_request(
                _input(request, tensors.TEXT_INPUT), _input(request, tensors.SAMPLING_PARAMETERS)
            )
            self._text = AnswerText(stop=asked.stop)
            self.row = generator.row(asked)
        except BadRequest as refusal:
            self._give(tensors.encode_refusal(refusal), finish=tensors.REFUSED, is_last=True)
        except Exception as error:  # noqa: BLE001 - a broken chat template, say: this request's failure alone
            self.fail(error)

    def step(self) -> None:
        """Takes up the tokens that have come since."""
        row = self.row
        if row is None or self._is_over:
            return
        if self._caller.is_cancelled():
            row.ended.set()
        is_last = row.ended.is_set()
        delta = self._text.grow(self._generator.text(row), is_last=is_last)
        if self._text.finish:
            row.ended.set()
            is_last = True
        finish = (self._text.finish or row.finish) if is_last else ""
        self._give(delta, finish=finish, is_last=is_last)

    def fail(self, error: Exception) -> None:
        """Tells the caller that this version could not answer."""
        if not self._is_over:
            reason = f"{type(error).__name__}: {error}"
            _triton.Logger.log_error(reason)  # Triton itself tells the client alone
            told = _triton.TritonError(reason)
            self._end(_triton.InferenceResponse(error=told))

    def _give(self, text: str, *, finish: str, is_last: bool) -> None:
        self._parts.append(text)
        if self._sender is not None and text and not is_last:
            self._sender.send(self._response(text, ""))
        if is_last:
            self._end(self._response(text if self._sender else "".join(self._parts), finish))

    def _end(self, response: Any) -> None:
        self._is_over = True
        if self._sender is None:
            self.response = response
        else:
            self._sender.send(response, flags=_triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _response(self, text: str, finish: str) -> Any:
        row = self.row
        strings = {tensors.TEXT_OUTPUT: text, tensors.FINISH_REASON: finish}
        counts = {
            tensors.INPUT_TOKENS: 0 if row is None else len(row.prompt),
            tensors.OUTPUT_TOKENS: 0 if row is None else len(row.tokens),
        }
        return _triton.InferenceResponse(
            [
                _tensor(name, np.array([[one.encode()]], dtype=object))
                for name, one in strings.items()
            ]
            + [_tensor(name, np.array([[one]], dtype=np.int32)) for name, one in counts.items()]
        )


def _tensor(name: str, values: Any) -> Any:
    return _triton.Tensor(name, values)


def _input(request: Any, name: str) -> str:
    """The only string of that input, (1, 1)."""
    tensor: Any = _triton.get_input_tensor_by_name(request, name)
    values: list[bytes] = [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()
    if len(values) != 1:
        message = (
            f"{name} must hold one conversation; it holds {len(values)}. Triton makes the batches."
        )
        raise BadRequest(message, param=name)
    return values[0].decode()
