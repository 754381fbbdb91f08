"""Serves a model on a free port of 127.0.0.1 with the llama.cpp of the package xllamacpp; prints where, as {"base_url": …}, once
it is loaded. Ends when its input does, so that it does not outlive whoever started it.

usage: serve.py FILE NAME
"""

import json
import os
import sys

# Threads that spin while they wait for each other stand still on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import xllamacpp  # noqa: E402: it reads the variable when it is loaded

# A task, its files and its results; the model was trained for 32768.
CONTEXT = 16384


def main():
    model, name = sys.argv[1:]
    threads = os.cpu_count() or 1
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.use_jinja = True
    server = xllamacpp.Server(params)
    print(json.dumps({"base_url": server.listening_address.rstrip("/") + "/v1"}), flush=True)
    sys.stdin.read()


main()
