# `conclave import` against a live cluster: folders, a manifest, values, and going on after being cut
# off. Run by node/tests/clients.rs with the program as $1; every line is an assertion.
conclave=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
code() { set +e; "$@" >out 2>err; echo $?; set -e; }

mkdir -p tree/shop/backend
echo '- !policy shop' > tree/base.yml
printf '%s\n' '- !policy backend' '- !host till' '- !variable pin' > tree/shop/shop.yml
{ i=0; while [ $i -lt 600 ]; do echo "- !variable v$i"; i=$((i+1)); done; } > tree/shop/backend/vars.yml
{
  i=0
  while [ $i -lt 600 ]; do echo "shop/backend/v$i: value $i"; i=$((i+1)); done
  echo 'shop/pin: {base64: AP8=}'
} > values.yml

# Everything is looked at before anything is sent.
$conclave import -d tree -v values.yml --check | grep -q '3 policy texts and 601 values'
printf 'shop/pin: 1\nshop/pin: 2\n' > twice.yml
test "$(code $conclave import -d tree -v twice.yml)" = 3
grep -q 'twice.yml:2: shop/pin stands here twice, on line 1 already' err
test "$(code $conclave resource show policy:shop)" = 6

# Cut off in the middle by SIGKILL, it goes on; nothing is done twice.
$conclave import -d tree -v values.yml --output json >first 2>err &
pid=$!
i=0
until [ -s tree/.conclave-import.journal ] && [ "$(wc -l < tree/.conclave-import.journal)" -gt 40 ]; do
  i=$((i+1)); [ $i -lt 600 ]; sleep 0.02
done
kill -9 $pid || true
wait $pid || true
done_before=$(grep -c '"value"' tree/.conclave-import.journal || true)
$conclave import -d tree -v values.yml --output json >second 2>err
grep -q '"policies_done_before": 3' second
test "$(sed -n 's/.*"values_done_before": \([0-9]*\).*/\1/p' second)" -ge 30
test ! -e tree/.conclave-import.journal
test "$($conclave variable get -i shop/backend/v599)" = 'value 599'
test "$($conclave variable get -i shop/pin | od -An -tx1 | tr -d ' ')" = 00ff
# Each has one version: nothing was set twice.
$conclave list -k variable -s backend -l 1000 -i | grep -c '"version": 2' | grep -qx 0
# The host's key was shown once, and is kept.
test "$(stat -c %a conclave-import-keys.jsonl)" = 600
grep -q dev:host:shop/till conclave-import-keys.jsonl
! grep -rq 'value 5' tree/.conclave-import* 2>/dev/null

# Again from the start: what is equal is left alone; what is refused is named, the rest is done.
$conclave import -v values.yml | grep -q '0 set, 601 equal already'
printf 'shop/pin: changed\nshop/nowhere: x\n' > more.yml
test "$(code $conclave import -v more.yml)" = 7
grep -q 'more.yml:2: shop/nowhere: 404 Not Found' err
grep -q '1 set' out
test "$($conclave variable get -i shop/pin)" = changed
test -e more.yml.journal

# A manifest, and a text that the server refuses, by file, line and column.
cat > tree/conclave-import.yml <<'YAML'
policies:
- {branch: root, file: base.yml}
- {branch: shop, file: bad.yml, mode: update}
YAML
printf '%s\n' '- !host other' '- !nonsense x' > tree/bad.yml
test "$(code $conclave import -d tree --journal j)" = 7
grep -q 'tree/bad.yml:2:3: 422' err
echo '- !host other' > tree/bad.yml
$conclave import -d tree --journal j --output json | grep -q '"policies_done_before": 1'
test "$($conclave resource exists host:shop/other)" = true
echo "the import holds"
