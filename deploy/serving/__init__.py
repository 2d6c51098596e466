"""Serves a bundle over HTTP and gRPC.

A request passes through, in this order: `connection` (deadlines, sizes and numbers of connections, with its `parser`), `pace` (a few are
started at once), `front` (request id, token, Host, log, metrics), `api`, `oip.over_http` or `oip.over_grpc` (parsing; `body` and `text`
read its body), `service` (admits it: a lease of the model, and from `admission` memory for its body and a place), `work` (what it holds,
its time, its jobs), `detect` and `decoders` (images to pixels, in other processes if that may take long), `model` (pixels to boxes),
`batcher` (several requests in one pass of the engine). `clients` shares places among clients; `process` starts and stops the server,
`workers` several of them; `options` is the section `serve` of pipeline.yaml.
"""
