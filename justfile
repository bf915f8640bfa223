# What a contributor can do. `just` itself comes with the extra [dev].
# Recipes run in the active virtual environment, or else in .venv.

venv := env("VIRTUAL_ENV", justfile_directory() / ".venv")
bin := quote(venv / "bin")
python := quote(venv / "bin" / "python")

# List the recipes.
default:
    @just --list --unsorted

# Make .venv, if no other is active, and install everything into it.
setup:
    [ -x {{ python }} ] || python3 -m venv {{ quote(venv) }}
    {{ python }} -m pip install --quiet --editable '.[dev]'

# Run the tests: all of them, or as told, e.g. `just test -m 'not slow' -k cancel`.
test *ARGS:
    {{ python }} -m pytest {{ ARGS }}

# Run the tests on another interpreter, in a throw-away environment, e.g. `just test-on 3.13`.
[script("bash")]
test-on VERSION *ARGS:
    set -euo pipefail
    venv=$(mktemp -d); trap 'rm -rf "$venv"' EXIT
    python{{ VERSION }} -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --editable '.[test]'
    "$venv/bin/python" -m pytest -p no:cacheprovider {{ ARGS }}

# It asks which, since in a shared tree another's half-written file has imports not used yet.
# Rewrite the named files or folders in the one format, and fix what can be fixed.
format +PATHS:
    {{ bin }}/ruff check --fix --exit-zero --quiet {{ PATHS }}
    {{ bin }}/ruff format {{ PATHS }}

# Check the format and the rules; flake8-async has the concurrency rules that ruff lacks.
[script("bash")]
lint:
    set -euo pipefail
    {{ bin }}/ruff format --check .
    {{ bin }}/ruff check .
    # ASYNC114 wants a list of our own functions for another rule. ASYNC109, 124: as argued in pyproject.toml. ASYNC9xx ask for a checkpoint on every path, and
    # cannot see one in a function that is called; only the rule on async generators is taken.
    # Six passes over the concrete tree of each file are a minute of CPU in twenty thousand lines,
    # so it reads only those that have a word without which none of its rules can be broken.
    git ls-files -z --cached --others --exclude-standard -- '*.py' \
        | xargs -0 grep -ZlE 'async|await|trio\b|Cancelled|BaseException|ExceptionGroup|except *[:*]' \
        | xargs -0 -n 40 -P 2 {{ bin }}/flake8-async --enable ASYNC1,ASYNC2,ASYNC3,ASYNC900 --disable ASYNC109,ASYNC114,ASYNC124

# Check the types, with both checkers.
[script("bash")]
types:
    failed=0
    {{ bin }}/mypy || failed=1
    {{ bin }}/basedpyright --pythonpath {{ python }} || failed=1
    exit $failed

# Check the arrows between the packages.
contracts:
    {{ bin }}/lint-imports

# Run every example: each ends by itself, without input, in a minute.
examples:
    {{ python }} examples/run_all.py

# The campaigns of which the ordinary run does a tenth, or nothing, as CI does them.
campaigns:
    {{ python }} -m pytest tests/faults/kill tests/faults/storage tests/faults/stalled tests/operations tests/faults/test_disconnects.py tests/faults/test_interleavings.py tests/faults/test_spending.py tests/faults/test_tenants.py tests/client/test_backpressure.py tests/client/test_flaky.py tests/cluster/test_network.py tests/benchmarks/test_nodes.py tests/test_packaging.py --scale 1
    {{ python }} -m pytest tests/contract tests/stores tests/cli/test_workers.py -m campaign --scale 1

# The web chat in Chromium, and its protocol client; `.ci/run` does this once.
pages *ARGS:
    {{ python }} -m pytest tests/web --scale 1 {{ ARGS }}

# The long campaign: SCALE times the random schedules of the ordinary run, from a new seed.
faults SCALE="25" SEED=`date +%s`:
    {{ python }} -m pytest tests/faults --scale {{ SCALE }} --seed {{ SEED }}

# Random requests by the OpenAPI page, against a server of their own; in a throw-away environment,
# since what makes them is a plugin of pytest too. The one check left out is that whatever fits a
# schema is accepted: a schema cannot say that an agent of that name has to be there. The same each
# time, so that what is found by chance does not stop somebody else's change; for others, SEED.
[script("bash")]
http-fuzz EXAMPLES="15" SEED="1":
    set -euo pipefail
    folder=$(mktemp -d)
    {{ python }} -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install --quiet 'schemathesis~=4.32'
    {{ python }} -m trialogue serve echo --transport http://127.0.0.1:0 --store memory --rate-limit off --log-level warning > "$folder/said" &
    trap 'kill $!; wait $! || true; rm -rf "$folder"' EXIT
    for _ in $(seq 300); do grep --quiet listening "$folder/said" && break; sleep 0.1; done
    "$folder/venv/bin/schemathesis" run "$(sed -n 's/^listening //p' "$folder/said")/v1/openapi.json" \
        --max-examples {{ EXAMPLES }} --seed {{ SEED }} --request-timeout 20 --continue-on-failure --no-color \
        --exclude-path-regex '/events$' --exclude-checks positive_data_acceptance

# Every parser under atheris, guided by coverage, SECONDS each, e.g. `just fuzz 60 lines log-file`.
# atheris comes into a throw-away folder, for the tests' own interpreter.
[script("bash")]
fuzz SECONDS="60" *TARGETS:
    set -euo pipefail
    folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
    {{ python }} -m pip install --quiet --target "$folder" 'atheris~=3.0'
    PYTHONPATH="$folder" {{ python }} -m tests.fuzzing.campaign {{ SECONDS }} {{ TARGETS }}

# The Autobahn cases against the WebSocket transport.
conformance *ARGS:
    {{ python }} -m pytest tests/conformance {{ ARGS }}

# Put a server under load, e.g. `just bench ws://127.0.0.1:8765`.
bench *ARGS:
    {{ python }} -m trialogue bench {{ ARGS }}

# Put the server beside its peers, e.g. `just compare --rows 4,5`; see benchmarks/README.md.
compare *ARGS:
    {{ python }} -m trialogue.benchmarks compare {{ ARGS }}

# See that everything that measures still does: half a minute, and no figure to keep.
bench-smoke:
    {{ python }} -m trialogue bench --scenario mixed --sessions 20 --rate 20 --duration 3s --processes 2
    {{ python }} -m trialogue.benchmarks compare --quick --rows 1a,4b,7,11a --peers websockets,sse
    {{ python }} -m trialogue.benchmarks micro --quick
    {{ python }} -m trialogue.benchmarks storage --quick

# All that CI does, from nothing.
ci:
    .ci/run
