"""Several processes behind one port: `supervisor` accepts connections and hands them out, each `worker` is a server with its own engine.

They talk over a `channel` each; `sums` adds up what the workers have counted.
"""
