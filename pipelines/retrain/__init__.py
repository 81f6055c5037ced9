"""A version is trained on with new data: LoRA on its unquantized base, merged, then the same chain as a release.

Start at `__main__`; `parent` says where the base is, `examples` reads the data, `lora` is the one that trains.
"""
