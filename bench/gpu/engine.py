"""The command as a user runs it: its reports, and holders that serve until they are told to end."""
import contextlib
import json
import os
import subprocess
import time


class EngineError(Exception):
    def __init__(self, status, text):
        super().__init__(f"exit status {status}: {text.strip()[-600:]}")
        self.status, self.text = status, text


class Engine:
    def __init__(self, artifacts):
        self.artifacts = artifacts
        self.command = os.path.join(artifacts, "bin", "checkpoint-engine")
        libraries = os.path.join(artifacts, "zmq")
        self.environment = dict(os.environ, LD_LIBRARY_PATH=":".join([libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
                                CHECKPOINT_ENGINE_LIBRARY=os.path.join(artifacts, "lib", "libcheckpoint_engine.so.0"),
                                PYTHONPATH=":".join([os.path.join(artifacts, "python"), *filter(None, [os.environ.get("PYTHONPATH")])]))

    def run(self, *arguments, timeout=120):
        done = subprocess.run([self.command, *arguments], capture_output=True, text=True, env=self.environment, timeout=timeout)
        if done.returncode != 0:
            raise EngineError(done.returncode, done.stderr)
        return done.stdout

    def report(self, *arguments, timeout=120):
        """The JSON that a command prints, and the seconds of the whole process."""
        started = time.perf_counter()
        output = self.run(*arguments, "--json", timeout=timeout)
        return json.loads(output), time.perf_counter() - started

    @contextlib.contextmanager
    def holder(self, folder, *arguments):
        process = subprocess.Popen([self.command, "serve", "--checkpoint", f"model={folder}", "--listen", "http://127.0.0.1:0", "--json", *arguments],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)
        try:
            line = process.stdout.readline()
            if not line:
                raise EngineError(process.wait(), process.stderr.read())
            ready = json.loads(line)
            ready["process"] = process.pid
            ready["metas"] = ready["http"] + "/v1/checkpoints/model/metas"
            yield ready
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()
            process.stderr.close()
