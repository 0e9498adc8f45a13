"""Runs one file of tests: run.py MODULE RESULTS. Writes a line of JSON to RESULTS for each test as it ends: test, outcome, text, seconds."""

import faulthandler
import json
import pathlib
import sys
import time
import unittest

HANGING_SECONDS = 100       # far beyond what any test takes; then the stacks of all threads are printed, and the process ends


class Result(unittest.TestResult):
    def __init__(self, file):
        super().__init__()
        self._file = file
        self._bad = {}
        self._started = 0.0

    def startTest(self, test):
        super().startTest(test)
        self._started = time.monotonic()
        faulthandler.dump_traceback_later(HANGING_SECONDS, exit=True)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        if test.id() in self._bad:
            self._write(test, *self._bad.pop(test.id()))
        super().stopTest(test)

    def addSuccess(self, test):
        if test.id() not in self._bad:
            self._write(test, "passed", "")

    def addFailure(self, test, err):
        self._failed(test, err)

    def addError(self, test, err):
        self._failed(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._failed(test, err, f"{subtest}\n")

    def addSkip(self, test, reason):
        case = getattr(test, "test_case", test)     # of a subtest
        if case.id() not in self._bad:
            self._bad[case.id()] = ("skipped", reason)

    def addExpectedFailure(self, test, err):
        self._write(test, "passed", "")

    def addUnexpectedSuccess(self, test):
        self._write(test, "failed", "passed unexpectedly")

    def _failed(self, test, err, prefix=""):
        text = prefix + self._exc_info_to_string(err, test)
        print(text, file=sys.stderr, flush=True)        # for what has no line of its own: the set-up of a class, a file that cannot be imported
        _, before = self._bad.get(test.id(), ("", ""))
        self._bad[test.id()] = ("failed", before + text)

    def _write(self, test, outcome, text):
        name = f"{type(test).__name__}.{test._testMethodName}"
        print(json.dumps({"test": name, "outcome": outcome, "text": text, "seconds": round(time.monotonic() - self._started, 2)}), file=self._file, flush=True)


def main():
    module, results = sys.argv[1:]
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    faulthandler.enable()
    suite = unittest.defaultTestLoader.loadTestsFromName(module)
    with open(results, "w", encoding="utf-8") as file:
        suite.run(Result(file))


if __name__ == "__main__":
    main()
