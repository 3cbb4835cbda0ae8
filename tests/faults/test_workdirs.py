"""A workdir in the hands of somebody who trains, stops, damages, repairs and evaluates in any order: a number is right, or there is one line."""

import json
import pathlib
import shutil
import signal
import tempfile

import numpy as np
import pytest
from damage import TRIED, counted, files_of, put, ways  # noqa: F401
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from experiments import data
from experiments.configs import base
from experiments.evaluation.engine import Evaluation
from experiments.evaluation.run import choose_measures, run_measures
from experiments.reports import results
from experiments.reports.entries import read_entries
from experiments.runtime.checkpoints import fingerprint
from experiments.runtime.errors import Stopped, UserError
from experiments.runtime.models import from_workdir
from experiments.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONFIG = ("digits:normal,tiny", ["checkpoint_every=2", "keep_last=9", "validation.num_examples=16"])
STEPS = (2, 4, 6, 8)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Of an untouched run: the digest of the parameters, and clean and robust accuracy, at each step."""
    workdir = tmp_path_factory.mktemp("truth") / "run"
    train(base.load_config(*CONFIG), str(workdir))
    return {step: measured(workdir, step) for step in STEPS}


def measured(workdir, step):
    model = from_workdir(str(workdir), str(step))
    split = data.load_split("digits", "test").first(8)
    chosen = choose_measures(("pgd",), "standard", {"steps": "2", "restarts": "1", "objectives": "margin"}, 8, split.labels)
    result, arrays = run_measures(Evaluation(model, split, (0.0, 0.1)), chosen)
    return fingerprint(model.params), [record.as_dict() for record in result.records], result, arrays


class Workdir(RuleBasedStateMachine):
    truth = None

    @initialize()
    def begin(self):
        self.place = pathlib.Path(tempfile.mkdtemp())
        self.workdir = self.place / "run"

    def teardown(self):
        shutil.rmtree(self.place, ignore_errors=True)

    def attempt(self, action):
        """The value of an action, or None if it refuses in one line."""
        TRIED["workdir action"] += 1
        try:
            return action()
        except (UserError, Stopped) as error:
            refused = str(error)
        assert "\n" not in refused
        return None

    @rule(stop=st.sampled_from([None, 2, 3, 5]))
    def train(self, stop):
        """To the end, or until it is asked to stop after some dispatches."""
        asked = iter([None] * (stop or 99) + [signal.SIGTERM] * 99)
        state = self.attempt(lambda: train(base.load_config(*CONFIG), str(self.workdir), stop=lambda: next(asked)))
        if state is not None:
            assert fingerprint(state.params) == self.truth[8][0]

    @rule(step=st.sampled_from(STEPS))
    def go_back(self, step):
        state = self.attempt(lambda: train(base.load_config(*CONFIG), str(self.workdir), from_step=step))
        if state is not None:
            assert fingerprint(state.params) == self.truth[8][0]

    @rule(data=st.data(), seed=st.integers(0, 10**6))
    def damage(self, data, seed):
        if files := files_of(self.workdir) if self.workdir.exists() else []:
            file = self.workdir / files[seed % len(files)]
            put(file, data.draw(st.sampled_from(list(ways(file.read_bytes(), seed).values()))))

    @rule(step=st.sampled_from(STEPS))
    def move_away(self, step):
        if (self.workdir / "checkpoints" / str(step)).exists():
            shutil.rmtree(self.workdir / "checkpoints" / str(step))

    @rule()
    def begin_anew(self):
        shutil.rmtree(self.workdir, ignore_errors=True)

    @rule(step=st.sampled_from([*map(str, STEPS), "latest", "best"]))
    def evaluate(self, step):
        found = self.attempt(lambda: measured(self.workdir, step)) if self.workdir.exists() else None
        if found is not None:
            number = found[2].provenance["checkpoint"]["step"]
            if number in self.truth:  # a run that was stopped has others, too
                assert found[0] == self.truth[number][0] and found[1] == self.truth[number][1]
            results.write_result(found[2], found[3], self.place / "result.json")

    @rule(seed=st.integers(0, 10**6), way=st.integers(0, 6))
    def damage_result(self, seed, way):
        file = self.place / f"result.{'json' if seed % 2 else 'npz'}"
        if file.exists():
            put(file, list(ways(file.read_bytes(), seed).values())[way])

    @invariant()
    def a_report_is_right_or_refused(self):
        if not hasattr(self, "place") or not (self.place / "result.json").exists():
            return
        entries = self.attempt(lambda: read_entries([str(self.place / "result.json")]))
        for entry in entries or []:
            number = entry.result.provenance["checkpoint"]["step"]
            if number in self.truth:
                assert json.dumps([record.as_dict() for record in entry.result.records]) == json.dumps(self.truth[number][1])
                for name, array in entry.arrays.items():
                    np.testing.assert_array_equal(array, self.truth[number][3][name])


def test_in_any_order(truth, request):
    Workdir.truth = truth
    examples = 5 * request.config.getoption("--trials")
    quiet = settings(max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Workdir, settings=quiet)
