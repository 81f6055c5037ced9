"""What every engine of ours needs, whichever server runs it: Ray Serve's replica and Triton's python backend alike.

`chat` speaks OpenAI's protocol (pure) and `generation` drives the model. `tensors` is a
chat as Triton's model takes it, and `generate_stream` how Triton is asked and answers (both pure). `chat`, `generation`
and `tensors` are copied into Triton's model repository, so they import nothing of the server around them.
"""
