"""Command line: parse, call, exit. `python -m pipeline run` is what a schedule calls.

Exit codes: 0 published or nothing to do, 1 our bug, 2 data refused, 3 a gate refused, 4 configuration and usage,
5 resources, 6 busy, 7 integrity, 8 a service, 128 + n for signals.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import NoReturn

from features.errors import ConfigurationRefused, Problem, Refusal


class _Parser(argparse.ArgumentParser):
    """A parser whose usage errors end with exit code 4."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(4)


def _day(text: str) -> str:
    """Return an ISO date, or `latest`."""
    return text if text == "latest" else date.fromisoformat(text).isoformat()


def _run(arguments: argparse.Namespace) -> int:
    from pipeline import run

    return run.run(as_of=arguments.as_of, log=arguments.log, strict=arguments.webhook_strict)


def _retrain(arguments: argparse.Namespace) -> int:
    from pipeline import run

    return run.retrain(log=arguments.log, strict=arguments.webhook_strict)


def _span(text: str) -> timedelta:
    """Return days (35d) or hours (48h)."""
    unit = {"d": "days", "h": "hours"}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal():
        raise argparse.ArgumentTypeError(f"must be days or hours, such as 35d or 48h, not {text!r}")
    return timedelta(**{unit: int(text[:-1])})


def _status(arguments: argparse.Namespace) -> int:
    from pipeline import sinks, versions

    code = versions.print_status(arguments.max_age)
    sinks.print_status()
    return code


def _gc(arguments: argparse.Namespace) -> int:
    from pipeline import pruning, run
    from pipeline.publish import Params

    params = Params.load()
    with run.owned():
        return pruning.collect(
            keep_newest=params.keep_newest, keep_months=params.keep_months, dry_run=arguments.dry_run
        )


def _verify(arguments: argparse.Namespace) -> int:
    del arguments
    from pipeline import held, sinks, versions

    count, problems = held.faults()
    code = versions.verify(problems, count)
    sinks.verify()
    return code


def _rebuild(arguments: argparse.Namespace) -> int:
    from pipeline import rebuild

    return rebuild.bring_back(arguments.run_id)


def _erase(arguments: argparse.Namespace) -> int:
    from pipeline import erase

    return erase.erase(arguments.customer_id, dry_run=arguments.dry_run)


def _champion(arguments: argparse.Namespace) -> int:
    from pipeline import champion

    if arguments.what == "show":
        return champion.show()
    return champion.set_champion(arguments.version, author=arguments.author, reason=arguments.reason)


def _check_source(arguments: argparse.Namespace) -> int:
    from pipeline import check_source

    return check_source.check(arguments.name, arguments.rows)


def _new_source(arguments: argparse.Namespace) -> int:
    from pipeline import new_source

    return new_source.write(arguments.name)


def _score(arguments: argparse.Namespace) -> int:
    if arguments.file.is_dir():
        from pipeline import applicant

        return applicant.score_folder(arguments.file, arguments.source, arguments.as_of, arguments.out)
    if arguments.source or arguments.as_of:
        raise ConfigurationRefused(
            Problem("--source, --as-of", "options of a folder of raw files", str(arguments.file), "Leave them out.")
        )
    from pipeline import asked

    return asked.score_file(arguments.file, arguments.out)


def _explain(arguments: argparse.Namespace) -> int:
    from pipeline import asked

    return asked.explain_customer(arguments.customer_id, arguments.picture)


def _letter(arguments: argparse.Namespace) -> int:
    from pipeline import letter

    return letter.write(arguments.customer_id, arguments.language, arguments.out)


def _what_if(arguments: argparse.Namespace) -> int:
    from pipeline import what_if

    return what_if.tell(arguments.policy, arguments.out)


def _sync(arguments: argparse.Namespace) -> int:
    from pipeline.sinks import sync

    return sync.sync(
        arguments.system, path=arguments.mapping, dry_run=arguments.dry_run, create_fields=arguments.create_fields,
        retry_rejected=arguments.retry_rejected, every=arguments.all, sample=arguments.sample,
        with_tasks=arguments.tasks,
    )  # fmt: skip


def _pull(arguments: argparse.Namespace) -> int:
    from pipeline.sinks import pull

    return pull.pull(arguments.system, path=arguments.mapping, source=arguments.source, full=arguments.full)


def _watch(arguments: argparse.Namespace) -> int:
    from pipeline import spark_session, watch

    asked = watch.Asked(
        arguments.inbox, arguments.settle, arguments.patience, arguments.every, tuple(dict.fromkeys(arguments.sync)),
        arguments.log, arguments.webhook_strict,
    )  # fmt: skip
    if arguments.once:
        return watch.once(asked)
    engine = spark_session.chosen()
    if engine is None:
        return watch.watch(asked)
    from pipeline import watch_stream

    return watch_stream.stream(asked, engine)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(prog="python -m pipeline", description="Bellwether's commands.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def add(name: str, action: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(action=action)
        return command

    run = add("run", _run, "Run the pipeline, publish, and say in the exit code what happened.")
    run.add_argument("--as-of", type=_day, help="write this as_of (YYYY-MM-DD or latest) into params.yaml first")
    again = add("retrain", _retrain, "Move train.until to the newest mature outcomes in params.yaml, then run.")
    watched = add("watch", _watch, "Take deliveries from an inbox as they arrive, and publish whom they touch anew.")
    watched.add_argument("inbox", type=Path, help="a folder: each file or folder in it is a delivery of the source")
    watched.add_argument("--once", action="store_true", help="take what lies there now, and end")
    watched.add_argument("--settle", type=float, default=2.0, help="seconds without a change before one is taken (2)")
    watched.add_argument("--patience", type=float, default=600.0, help="before a torn one is refused (600)")
    watched.add_argument("--every", type=float, default=2.0, help="seconds between looks (2)")
    watched.add_argument("--sync", action="append", default=[], choices=("zoho", "fxiaoke"), help="then sync this CRM")
    for job in (run, again, watched):
        job.add_argument("--log", choices=("text", "json"), help="json: one object a line (or BELLWETHER_LOG=json)")
        job.add_argument(
            "--webhook-strict", action="store_true", help="end with 8 where BELLWETHER_WEBHOOK could not be told"
        )
    status = add("status", _status, "Say what is published, how old, from which model and data.")
    status.add_argument("--max-age", type=_span, help="exit with 3 where as_of is older: 35d, 48h")
    add(
        "verify",
        _verify,
        "Re-hash versions, champions, DVC's cache and outputs; compare the sink with what is current.",
    )
    add("rebuild", _rebuild, "Bring a pruned version back, byte for byte, from its manifest.").add_argument("run_id")
    swept = add("gc", _gc, "Prune old tables and cache by the policy in params.yaml (publish.keep_...).")
    swept.add_argument("--dry-run", action="store_true", help="say what would go, and leave it")
    gone = add("erase", _erase, "Leave no trace of a customer but in raw files, and keep a later delivery's rows out.")
    gone.add_argument("customer_id")
    gone.add_argument("--dry-run", action="store_true", help="say what would go, and leave it")
    check = add("check-source", _check_source, "Show what a mapping makes of the first rows of its files, and why not.")
    check.add_argument("name", help="of data/sources/<name>.yaml and data/raw/<name>")
    check.add_argument("--rows", type=int, default=20_000, help="rows of each table to read (20,000)")
    add("new-source", _new_source, "Draft a mapping from the files in data/raw/<name>.").add_argument("name")
    score = add("score", _score, "Score a file of features, or applicants' raw histories, by the published model.")
    score.add_argument(
        "file", type=Path, help="parquet, csv or json lines, with a column for each feature of the model; or a folder "
        "of raw files named as the source's mapping names them",
    )  # fmt: skip
    score.add_argument("--source", help="a folder's: whose mapping reads it (the published source)")
    score.add_argument("--as-of", type=date.fromisoformat, help="a folder's: YYYY-MM-DD (after the newest row known)")
    score.add_argument("--out", type=Path, help="write the answers there (.csv or .parquet) instead of printing them")
    explained = add("explain", _explain, "Say what is published of a customer, and what every family of features adds.")
    explained.add_argument("customer_id")
    explained.add_argument("--picture", type=Path, help="also draw it (.png, .svg or .pdf)")
    written = add("letter", _letter, "Write a letter and talking points for a customer on the published worklist.")
    written.add_argument("customer_id")
    written.add_argument("--language", choices=("en", "zh"), default="en")
    written.add_argument("--out", type=Path, help="write the two texts into this folder instead of printing them")
    supposed = add("what-if", _what_if, "Say what another policy would do to the portfolio, before it is published.")
    supposed.add_argument("policy", type=Path, help="a policy file, as those in data/policy")
    supposed.add_argument("--out", type=Path, help="write the customers concerned there (.csv or .parquet)")
    synced = add("sync", _sync, "Bring what changed in the published table to a CRM; never deletes there.")
    synced.add_argument("system", choices=("zoho", "fxiaoke"))
    synced.add_argument("--dry-run", action="store_true", help="check fields, count, show some rows; write nothing")
    synced.add_argument("--sample", type=int, default=3, help="rows that --dry-run shows as they are and would be (3)")
    synced.add_argument("--create-fields", action="store_true", help="make missing fields, or say what is to be added")
    synced.add_argument("--tasks", action="store_true", help="also a task for each open row of the worklist, once each")
    which_rows = synced.add_mutually_exclusive_group()
    which_rows.add_argument("--retry-rejected", action="store_true", help="send only the rows rejected before")
    which_rows.add_argument("--all", action="store_true", help="send unchanged rows too, say after a loss in the CRM")
    synced.add_argument("--mapping", type=Path, help="another mapping than data/crm/<system>.yaml")
    pulled = add("pull", _pull, "Bring accounts, contacts and standing from a CRM into data/raw as a delivery.")
    pulled.add_argument("system", choices=("zoho", "fxiaoke"))
    pulled.add_argument("--source", help="into data/raw/<source> (the one that params.yaml chooses)")
    pulled.add_argument(
        "--full", action="store_true", help="read every record, and deliver again what lay in deliveries that are lost"
    )
    pulled.add_argument("--mapping", type=Path, help="another mapping than data/crm/<system>.yaml")
    champion = add("champion", _champion, "Show the champion or set it by hand.")
    which = champion.add_subparsers(dest="what", required=True, parser_class=_Parser)
    which.add_parser("show", help="the champion and the versions that can replace it")
    chosen = which.add_parser("set", help="make a known version the champion")
    chosen.add_argument("version")
    chosen.add_argument("--author", required=True)
    chosen.add_argument("--reason", required=True)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and return the exit code."""
    from pipeline.stage import report_refusal, resources

    arguments = parser().parse_args(argv)
    try:
        with resources(arguments.command):
            code: int = arguments.action(arguments)
            sys.stdout.flush()
    except Refusal as refusal:
        report_refusal(arguments.command, refusal)
        return refusal.exit_code
    except BrokenPipeError:  # whoever reads what is printed has gone, say `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(main())
