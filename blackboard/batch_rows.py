"""The rows that a group of commits adds, and those that it supersedes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.entries import Key
from agentsys.blackboard.rows import Values, commit_to_row, effect_to_row, entry_to_row, intent_to_row
from agentsys.blackboard.storage import PreparedCommit


@dataclass(slots=True)
class BatchRows:
    """Rows by table, to be stored in one step: first what is superseded, then what is new.

    ``superseded_entries`` have ``of_topic, of_key, of_version, by_seq``, ``superseded_effects`` ``of_id, by_seq``,
    ``moves`` ``of_name, to_position``.
    """

    commits: list[Values] = field(default_factory=list)
    superseded_entries: list[Values] = field(default_factory=list)
    payloads: list[Values] = field(default_factory=list)
    entries: list[Values] = field(default_factory=list)
    intents: list[Values] = field(default_factory=list)
    superseded_effects: list[Values] = field(default_factory=list)
    effects: list[Values] = field(default_factory=list)
    moves: list[Values] = field(default_factory=list)

    @staticmethod
    def of(commits: Sequence[PreparedCommit]) -> "BatchRows":
        """Return the rows of ``commits``, which follow each other in the log."""
        rows = BatchRows([commit_to_row(item.commit) for item in commits])
        rows._take_entries(commits)
        rows._take_effects(commits)
        # One statement sets each cursor once, to where the last of several moves leaves it.
        moves = {move.subscription: move.to_seq for item in commits for move in item.commit.cursors}
        rows.moves = [{"of_name": name, "to_position": position} for name, position in moves.items()]
        return rows

    def _take_entries(self, commits: Sequence[PreparedCommit]) -> None:
        newest: dict[Key, Values] = {}
        payloads: dict[str, str | None] = {}
        for item in commits:
            for ordinal, (entry, text) in enumerate(zip(item.commit.writes, item.texts, strict=True)):
                row = entry_to_row(entry, text, ordinal)
                topic, key = address = entry.topic, entry.key
                previous = newest.get(address)
                if previous is not None:
                    previous["valid_to"] = entry.seq
                elif entry.version > 1:
                    old = {"of_topic": topic, "of_key": key, "of_version": entry.version - 1, "by_seq": entry.seq}
                    self.superseded_entries.append(old)
                newest[address] = row
                self.entries.append(row)
                if row["payload"] is not None:
                    payloads[row["payload"]] = text
        self.payloads = [{"id": name, "text": text} for name, text in payloads.items()]

    def _take_effects(self, commits: Sequence[PreparedCommit]) -> None:
        newest: dict[str, Values] = {}
        for item in commits:
            for ordinal, effect in enumerate(item.commit.effects):
                row = effect_to_row(effect, ordinal)
                previous = newest.get(effect.id)
                if effect.state is EffectState.INTENDED:
                    self.intents.append(intent_to_row(effect.intent))
                elif previous is not None:
                    previous["valid_to"] = effect.seq
                else:
                    self.superseded_effects.append({"of_id": effect.id, "by_seq": effect.seq})
                newest[effect.id] = row
                self.effects.append(row)
