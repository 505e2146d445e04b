"""``airflow hybrid pods cleanup``: removes finished pods that nobody needs any more.

A leftover is a pod of this Airflow that ended long enough ago and whose end is
recorded: it bears the mark of a pod that is kept, or the ledger says so. One
whose end is not recorded yet is the only witness of it, however old, and stays
for the scheduler that will ask. Pods that live are never touched.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airflow.utils.cli import action_cli, suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor import contract
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory, remove_all
from hybrid_executor.cli.clusters import ask, chosen
from hybrid_executor.cli.pods import summaries
from hybrid_executor.durations import in_words
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.model.errors import ApiUnavailable, LedgerUnavailable
from hybrid_executor.model.record import SubmissionRecord
from hybrid_executor.pods.inventory import PodSummary, is_old
from hybrid_executor.ports import Ledger
from hybrid_executor.settings import load_settings

NOT_RECORDED = "its end is not recorded yet"


@action_cli(check_db=False)  # type: ignore[no-untyped-call, untyped-decorator]
@suppress_logs_and_warning
@providers_configuration_loaded
def cleanup(args: Namespace) -> None:
    """Remove leftovers page by page and say what was done; exits with 1 if one could not be removed."""
    configs = chosen(load_settings(), args.cluster)
    cleaning = Cleaning(
        ledger=DatabaseLedger(contract.metadata_engine()),
        older_than=args.older_than,
        dry_run=args.dry_run,
    )
    try:
        answers = ask(configs, lambda api, config: cleaning.run(api, config, args.namespace))
    finally:
        cleaning.tell()
    answers.exit_if_incomplete()
    if cleaning.failures:
        raise SystemExit(1)


@dataclass(kw_only=True)
class Cleaning:
    """One run of the command."""

    ledger: Ledger
    older_than: timedelta
    dry_run: bool
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    removed: int = 0
    #: By why they stay.
    kept: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    async def run(self, api: Inventory, config: KubernetesConfig, namespaces: list[str] | None) -> None:
        """List, decide and remove in one cluster, one page after the other."""
        async for page in summaries(api, config, namespaces):
            leftovers = self._leftovers([pod for pod in page if is_old(pod, self.now, self.older_than)])
            if self.dry_run:
                self._note(leftovers, "would remove")
                continue
            answers = await remove_all(api, leftovers, config.upkeep_concurrency)
            self._note([pod for pod, error in answers if error is None], "removed")
            self._note_failures([error for _, error in answers if error is not None])

    def tell(self) -> None:
        """Print what was done, in all."""
        verb = "would be removed" if self.dry_run else "removed"
        print(f"{self.removed} pods {verb} that ended {in_words(self.older_than)} ago or earlier")
        for why, count in self.kept.items():
            print(f"{count} kept: {why}")
        for why, count in self.failures.items():
            print(f"{count} could not be removed: {why}")

    def _leftovers(self, old: list[PodSummary]) -> list[PodSummary]:
        unmarked = [pod for pod in old if not pod.done and not pod.deleting]
        try:
            records = self.ledger.find({pod.submission.attempt_id for pod in unmarked if pod.submission})
        except LedgerUnavailable as error:
            self.kept[f"the ledger can't say whether their ends are recorded: {error}"] += len(unmarked)
            return [pod for pod in old if pod.done and not pod.deleting]
        waiting = [pod for pod in unmarked if not is_recorded(pod, records)]
        if waiting:
            self.kept[NOT_RECORDED] += len(waiting)
        kept = {pod.uid for pod in waiting}
        return [pod for pod in old if not pod.deleting and pod.uid not in kept]

    def _note(self, pods: Iterable[PodSummary], done: str) -> None:
        for pod in pods:
            self.removed += 1
            ago = in_words(self.now - pod.ended_at) if pod.ended_at else "?"
            why = f", {pod.reason}" if pod.reason else ""
            print(f"{done} {pod.external_name} ({pod.phase} {ago} ago{why})")

    def _note_failures(self, errors: list[ApiUnavailable]) -> None:
        self.failures.update(str(error) for error in errors)


def is_recorded(pod: PodSummary, records: Mapping[str, SubmissionRecord]) -> bool:
    """Whether the ledger has the end of a pod's submission; ``records`` are the newest of each attempt.

    A submission without a row was recorded once, before it was sent, and its
    row has been removed since: nobody will ask for its end.
    """
    if pod.submission is None:
        return False
    newest = records.get(pod.submission.attempt_id)
    if newest is None or newest.id.number > pod.submission.number:
        return True
    return newest.ended_at is not None
