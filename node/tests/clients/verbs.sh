# The client verbs against a live cluster: results, texts, exit codes. Run by node/tests/clients.rs with
# the program as $1; every line is an assertion.
conclave=$1
export HOME=$(mktemp -d)
trap 'rm -rf "$HOME"' EXIT
cd "$HOME"
code() { set +e; "$@" >out 2>err; echo $?; set -e; }

key=$CONJUR_AUTHN_API_KEY url=$CONJUR_APPLIANCE_URL cert=$CONJUR_CERT_FILE
unset CONJUR_AUTHN_LOGIN CONJUR_AUTHN_API_KEY CONJUR_APPLIANCE_URL CONJUR_ACCOUNT CONJUR_CERT_FILE
$conclave init -u "$url" -a dev -c "$cert"
echo "$key" | $conclave login -i admin | grep -qx 'Logged in'

# Policies: what is said and where; a dry run changes nothing.
cat > policy.yml <<'YAML'
- !user carol
- !policy
  id: shop
  body:
  - !group clerks
  - !host till
  - !host scale
  - &vars
    - !variable pin
    - !variable note
    - !variable "with space:and colon"
  - !permit
    role: !group clerks
    privileges: [read, execute]
    resource: *vars
  - !grant
    role: !group clerks
    member: !host till
YAML
$conclave policy load -b root -f policy.yml --dry-run | grep -q 'Valid YAML'
test "$(code $conclave resource show policy:shop)" = 6
$conclave policy load -b root -f policy.yml >loaded 2>err
grep -q "Loaded policy 'root'" err
grep -q '"version": 2' loaded
till=$(sed -n '/"dev:host:shop\/till": {/,/}/s/.*"api_key": "\(.*\)",*/\1/p' loaded)
carol=$(sed -n '/"dev:user:carol": {/,/}/s/.*"api_key": "\(.*\)",*/\1/p' loaded)
test ${#till} -ge 45
echo '- !nonsense x' > bad.yml
test "$(code $conclave policy update -b root -f bad.yml --dry-run)" = 7
grep -q '"line": 1' out
test "$(code $conclave policy replace -b shop -f nothing.yml)" = 3

# Values: by file, by standard input, in bulk, by version.
printf 1234 | $conclave variable set -i shop/pin -f - | grep -qx 'Value added'
printf 5678 > pin && $conclave variable set -i shop/pin -f pin
printf x | $conclave variable set -i 'shop/with space:and colon'
test "$($conclave variable get -i shop/pin)" = 5678
test "$($conclave variable get -i shop/pin --version 1)" = 1234
test "$($conclave variable get -i 'shop/with space:and colon')" = x
$conclave variable get -i shop/pin,app/db/password | grep -q '"dev:variable:shop/pin": "5678"'
$conclave variable get -i shop/pin -i app/db/password | grep -q 'dev:variable:app/db/password'
test "$(code $conclave variable get -i shop/note)" = 6
grep -q 'CONJ00076E Variable dev:variable:shop/note is empty or not found' err

# Lists.
test "$($conclave list -k variable -s shop --count)" = 3
test "$($conclave list -k variable -s shop -l 1 -o 1 | wc -l)" = 1
$conclave list -k host -i | grep -q '"restricted_to"'
test "$($conclave list -k variable -r host:shop/till | wc -l)" = 3
$conclave list -k variable --output json | grep -q '"dev:variable:shop/pin"'

# Whoever reads may stop at any time: nothing is said about it, whatever was being shown.
cfg=$CONCLAVE_DEV_DIR/n1/conclave.toml
mkfifo closed
unread() {
    { read -r _ <closed; set +e; "$@" 2>err; echo $? >status; } | { exec 0<&-; echo >closed; }
    test "$(cat status)" = 141 && test ! -s err
}
test "$($conclave list | head -1 | wc -l)" = 1
for verb in list 'list -k host -i' 'list --count --output json' whoami 'variable get -i shop/pin' \
    'variable get -i shop/pin,app/db/password' 'resource show variable:shop/pin' \
    'resource exists variable:shop/pin' 'resource permitted-roles variable:shop/pin execute' \
    'check variable:shop/pin execute' 'check -e variable:nowhere execute' 'role members group:shop/clerks' \
    'role memberships host:shop/till' 'role show host:shop/till' 'policy show -b shop' \
    authenticate 'authenticate -H' 'authenticator list' "audit export --config $cfg" \
    "account list --config $cfg" --help 'list --help' --version; do
    unread $conclave $verb || { echo "$verb: $(cat status) $(cat err)" >&2; exit 1; }
done

# Who may do what.
test "$($conclave check variable:shop/pin execute)" = true
test "$($conclave check variable:shop/pin update -r host:shop/till)" = false
test "$($conclave check dev:variable:shop/pin execute -r host:shop/till)" = true
test "$($conclave check variable:nowhere execute)" = false
test "$(code $conclave check -e variable:nowhere execute)" = 6
test "$($conclave resource exists variable:shop/pin)" = true
test "$($conclave resource exists variable:nowhere)" = false
$conclave resource show variable:shop/pin | grep -q '"version": 2'
$conclave resource permitted-roles variable:shop/pin execute | grep -qx dev:host:shop/till
test "$($conclave role exists host:shop/till)" = true
test "$($conclave role members group:shop/clerks)" = "dev:host:shop/till
dev:policy:shop"
$conclave role members -v group:shop/clerks | grep -q '"ownership": true'
$conclave role memberships host:shop/till | grep -qx dev:group:shop/clerks
test "$($conclave role memberships --direct host:shop/till)" = dev:group:shop/clerks
$conclave role show host:shop/till | grep -q created_at
test "$(code $conclave resource show shop/pin)" = 2 && grep -q KIND:ID err

# Keys of others, one's own, and a password; nothing is echoed, files are private.
$conclave host rotate-api-key -i shop/till --key-file till.key
test "$(stat -c %a till.key)" = 600 && test "$(cat till.key)" != "$till"
new=$($conclave user rotate-api-key -i carol) && test "$new" != "$carol" && test ${#new} -ge 45
test "$(code $conclave host rotate-api-key)" = 2
test "$(code $conclave user rotate-api-key -i nobody)" = 6 && grep -q CONJ00123E err
echo "$carol" > stale && test "$(code $conclave login -i carol --password-file stale)" = 4
grep -q 'Unable to authenticate' err
echo "$new" | $conclave login -i carol
echo weak > weak && test "$(code $conclave user change-password --password-file weak)" = 7
grep -q CONJ00046E err
printf 'Correct-Horse-9!\n' > strong
$conclave user change-password --password-file strong | grep -qx 'Password changed'
$conclave login -i carol --password-file strong
own=$($conclave user rotate-api-key) && test "$own" != "$new"
$conclave whoami | grep -q 'carol in account dev'
test "$(code $conclave variable get -i shop/pin)" = 6
$conclave login -i host/shop/till --password-file till.key
test "$($conclave variable get -i shop/pin)" = 5678
test "$(code $conclave variable set -i shop/pin -v 1)" = 5
$conclave host rotate-api-key --key-file till.key && $conclave whoami | grep -q host/shop/till
$conclave authenticate | grep -q '"protected"'
curl -sf --cacert "$cert" -H "$($conclave authenticate -H)" "$url/whoami" | grep -q host/shop/till
curl -sf --http1.0 --cacert "$cert" "$url/authenticators" | grep -q installed
$conclave logout | grep -qx 'Logged out'
test "$(code $conclave whoami)" = 4 && grep -q 'conclave login' err

# Policies as they are in force, public keys, machines that enrol themselves, authenticators.
echo "$key" | $conclave login -i admin
cat > more.yml <<'YAML'
- !user
  id: dave
  public_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ dave@laptop]
- !policy
  id: farm
  body:
  - !layer boxes
  - !host-factory {id: factory, layers: [!layer boxes]}
- !policy
  id: conjur/authn-jwt/ci
  body: [!webservice]
YAML
$conclave policy load -b root -f more.yml
$conclave policy show -b shop | grep -q 'variable pin'
$conclave policy fetch -b shop --output json | grep -q '"policy"'
$conclave policy show -b shop -f shop.yml && test "$(stat -c %a shop.yml)" = 600
$conclave policy replace -b root -f shop.yml --dry-run | grep -q 'Valid YAML'
$conclave pubkeys show dave | grep -q '^ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ dave@laptop$'
$conclave hostfactory tokens create -i farm/factory --duration-minutes 10 --cidr 127.0.0.0/8 -n 2 > tokens
test "$(grep -c '"token"' tokens)" = 2
sed -n '0,/"token"/s/.*"token": "\([a-z0-9]*\)".*/\1/p' tokens > token
$conclave hostfactory hosts create -i box-1 --token-file token --key-file box.key --annotation rack=7 | grep -q box-1
test "$(stat -c %a box.key)" = 600
$conclave login -i host/box-1 --password-file box.key && $conclave whoami | grep -q host/box-1
echo "$key" | $conclave login -i admin
$conclave role members layer:farm/boxes | grep -qx dev:host:box-1
$conclave hostfactory tokens revoke --token-file token | grep -qx 'Token has been revoked'
test "$(code $conclave hostfactory hosts create -i box-2 --token-file token)" = 4
echo "$key" | $conclave login -i admin
for _ in $(seq 100); do # From the feature level on that the leader raises when it has looked at all members.
  $conclave hostfactory tokens create -i farm/factory --one-time > tokens && break || sleep 0.1
done
grep -q '"uses_left": 1' tokens
sed -n 's/.*"token": "\([a-z0-9]*\)".*/\1/p' tokens > token
$conclave hostfactory hosts create -i box-2 --token-file token --key-file box.key | grep -q box-2
test "$(code $conclave hostfactory hosts create -i box-3 --token-file token)" = 4
test "$(code $conclave hostfactory tokens create -i farm/factory --one-time --max-uses 3)" = 2
$conclave authenticator enable -i authn-jwt/ci | grep -qx 'Authenticator authn-jwt/ci is enabled'
$conclave authenticator list | grep -q '^enabled .*authn-jwt/ci'
$conclave authenticator disable -i authn-jwt/ci
test "$(code $conclave authenticator enable -i authn-jwt/none)" = 6

# Help teaches.
for verb in 'policy load' 'variable get' list check role 'user rotate-api-key' 'hostfactory tokens create' import login; do
  $conclave $verb --help | grep -qi example
done
echo "all verbs hold"
