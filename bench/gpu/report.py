"""Rows as they come, a table at the end, and JSON. A row without a target is told, one with a target holds or is missed."""
import json
import statistics


class Report:
    def __init__(self):
        self.rows = []

    def note(self, part, what, value, remark=""):
        self._add(part, what, value, "", None, remark)

    def check(self, part, what, value, target, held, remark=""):
        self._add(part, what, value, target, bool(held), remark)

    def at_least(self, part, what, value, least, unit="", remark=""):
        self.check(part, what, f"{value:.2f}{unit}", f">= {least:g}{unit}", value >= least, remark)

    def below(self, part, what, value, most, unit=" s", remark=""):
        self.check(part, what, f"{value:.2f}{unit}", f"< {most:g}{unit}", value < most, remark)

    @property
    def missed(self):
        return [row for row in self.rows if row["held"] is False]

    def table(self):
        lines = ["| part | what | found | wanted | |", "| --- | --- | --- | --- | --- |"]
        for row in self.rows:
            verdict = {None: "", True: "held", False: "**missed**"}[row["held"]]
            lines.append(f"| {row['part']} | {row['what']} | {row['value']} | {row['target']} | {' '.join(filter(None, [verdict, row['remark']]))} |")
        return "\n".join(lines)

    def save(self, path, machine):
        with open(path, "w") as file:
            json.dump({"machine": machine, "rows": self.rows}, file, indent=1)

    def _add(self, part, what, value, target, held, remark):
        self.rows.append({"part": part, "what": what, "value": value, "target": target, "held": held, "remark": remark})
        verdict = {None: "", True: ", held", False: ", MISSED"}[held]
        print(f"{part}: {what}: {value}{f' ({target}{verdict})' if target else ''}{f'; {remark}' if remark else ''}", flush=True)


def spread(values, format="{:.2f}"):
    return f"{format.format(min(values))} to {format.format(max(values))}"


def median(values):
    return statistics.median(values)
