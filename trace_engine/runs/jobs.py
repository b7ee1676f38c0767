"""What a worker does with its slot: make a profile, or unlearn.

Both compute through the engine's public functions; this room only puts results where a run
directory keeps them. It accepts importing torch: only workers and the CLI's computing commands load
it.
"""

from pathlib import Path

from trace_engine.config import ProfileConfig, UnlearnConfig, identity_of
from trace_engine.disk import write_json
from trace_engine.errors import AlreadySaidError, RunError, TraceError
from trace_engine.progress import Progress, ProgressCallback, ignore_progress
from trace_engine.routing import ALONE, Workers
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.places import find_profile
from trace_engine.runs.profiles import ProfileAnswer, ProfileCache, keep_profile, save_with_map
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.training import Interruptible, Opened, train, train_along
from trace_engine.runs.worker import Job
from trace_engine.unlearning import Session, settle_run


def perform(
    run: RunDirectory,
    stop: StopFlag,
    report: ProgressCallback,
    base: Path | None,
    workers: Workers = ALONE,
) -> str:
    """Do what the run's settings ask for; returns the sentence of its end.

    Of several `workers` the leading one calls this, through `lead`. Raises StopRequestedError when
    it was asked to stop, and whatever the engine raises.
    """
    config = run.config()
    reports = Interruptible(stop, report)
    if isinstance(config, ProfileConfig):
        return make_profile(run, config, reports, base)
    if config.model.experts_implementation == "trial":
        reports(Progress("timing the experts", 0, 1, "steps", None, None))
        config, trial = settle_run(config, workers)
        _record(run, config, trial)
    reports(Progress("opening the model and the sets", 0, 1, "steps", None, None))
    opened = open_session(config, reports, base, workers)
    try:
        return train(run, config, stop, reports, opened, workers)
    finally:
        opened.session.close()


def lead(workers: Workers) -> Job:
    """`perform` for the leading one of several processes: all begin when it has its turn, and when
    it ends otherwise than done, they end with it."""

    def job(run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None) -> str:
        try:
            workers.wait()
            return perform(run, stop, report, base, workers)
        except AlreadySaidError:
            raise RunError(workers.reason()) from None
        except TraceError as error:
            workers.refuse(error)
            raise

    return job


def follow(run: RunDirectory, stop: StopFlag, base: Path | None, workers: Workers) -> None:
    """What each other process does: wait for the leading one's turn, then its share of the work.

    Raises StopRequestedError when the run was stopped, and whatever the engine raises.
    """
    workers.wait()
    config = run.config()
    if not isinstance(config, UnlearnConfig):
        raise RunError(f"Run {run.id} makes a profile; share one with `trace-moe profile`.")
    settle_run(config, workers)  # refuses what the leading process refuses
    reports = Interruptible(stop, ignore_progress)
    session = open_session(config, reports, base, workers).session
    try:
        train_along(session, stop, reports, workers)
    finally:
        session.close()


def _record(run: RunDirectory, config: ProfileConfig | UnlearnConfig, trial: str | None) -> None:
    """Put what a trial picked into the run's settings, so that a resume goes on with the same."""
    run.settle(config)
    if trial is not None:
        run.log(trial)
        run.update(notes=[*run.status().notes, trial])


def make_profile(
    run: RunDirectory, config: ProfileConfig, report: ProgressCallback, base: Path | None
) -> str:
    """Answer a profile job from the cache or by computing it; the run's facts name its key."""
    answer = ProfileAnswer(config, base)
    if answer.trial is not None:
        config = answer.config
        _record(run, config, answer.trial)
    said = [] if answer.trial is None else [answer.trial]

    def say(sentence: str) -> None:
        said.append(sentence)
        run.log(sentence)

    folder, was_there = answer.get(report, base, say=say)
    facts = {
        "identity": {"config": identity_of(config), **answer.fingerprints},
        "profile_key": answer.key,
        "model": answer.model.to_dict(),
        "overlap": {
            "count": answer.overlap.count,
            "forget_total": answer.overlap.forget_total,
            "retain_total": answer.overlap.retain_total,
        },
    }
    write_json(run.path / "facts.json", facts)
    end = f"Profile {folder.name[:12]} was {'already there' if was_there else 'computed'}."
    return " ".join([end, *said])


def open_session(
    config: UnlearnConfig, report: ProgressCallback, base: Path | None, workers: Workers = ALONE
) -> Opened:
    """The engine's session, its profile taken from the cache or put there; several processes share
    the work on one that is not there."""
    if workers.size > 1:
        ProfileAnswer(config.profile_config()).get(report, base, workers)
    session = Session(config, profiles=ProfileCache(base, report), workers=workers, report=report)
    setup = session.setup
    fingerprints = {
        "model": setup.opened.info.fingerprint,
        "forget": setup.forget.documents.fingerprint,
        "retain": setup.retain.documents.fingerprint,
    }
    key = session.profile_key
    # It is there, unless someone emptied the cache meanwhile.
    folder = find_profile(key, base) or keep_profile(key, session.profile, base, report)
    return Opened(
        session,
        fingerprints,
        folder,
        lambda to: save_with_map(session.profile_after(), to, report),
    )
