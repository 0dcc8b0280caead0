//! The life of the cluster's certificates on real processes: what is presented verifies strictly, a
//! renewal and a rotation of the root are loaded by all nodes while requests run and none is
//! refused, and a voter that joins is named in what all present.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/package.rs"]
mod package;

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use package::package;

fn dev(size: [&str; 2], script: &str) {
    dev_with(&[], size, script);
}

/// The same, with more in the environment of all that runs.
fn dev_with(environment: &[(&str, &OsStr)], size: [&str; 2], script: &str) {
    let why = "these tests look at certificates as others do";
    package("openssl", &["openssl", "version"], why);
    package("python3", &["python3", "--version"], why);
    package("curl", &["curl", "--version"], why);
    let helpers = r#"
        cd $(mktemp -d)
        conclave=$1 root=$CONJUR_CERT_FILE
        cfg=$CONCLAVE_DEV_DIR/n1/conclave.toml
        ports() { grep -o '"url": "[^"]*"' $CONCLAVE_DEV_DIR/nodes.json | grep -o '[0-9]*"$' | tr -d '"'; }
        present() { openssl s_client -connect 127.0.0.1:$1 -showcerts </dev/null 2>/dev/null; }
        verify() { # PORT ROOTS: the chain as presented, strictly
            present $1 | awk '/BEGIN/{n++} /BEGIN/,/END/{print > ("c" n ".pem")}'
            cat c2.pem c3.pem > links.pem 2>/dev/null || cp c2.pem links.pem
            openssl verify -x509_strict -purpose sslserver -CAfile $2 -untrusted links.pem c1.pem
            openssl verify -x509_strict -purpose sslclient -CAfile $2 -untrusted links.pem c1.pem
            rm -f c?.pem
        }
        loaded() { # NAME REVISION: until every member has loaded that generation
            for i in $(seq 600); do
                $conclave cert show --config $cfg "$1" --output json > row.json || true
                if grep -q "\"revision\": $2" row.json && ! grep -q '"loaded": false' row.json; then return 0; fi
                sleep 0.1
            done
            cat row.json; return 1
        }
        settled() { # what joining has led to is in force everywhere
            last= same=0
            for i in $(seq 300); do
                $conclave cert show --config $cfg cluster --output json > row.json
                now=$(grep '"revision"' row.json)
                if test "$now" = "$last" && ! grep -q '"loaded": false' row.json; then
                    same=$((same + 1)); test $same -lt 8 || return 0
                else same=0; fi
                last=$now; sleep 0.2
            done
            cat row.json; return 1
        }
        patient() { # a machine that does much else is no reason for an election
            for file in $CONCLAVE_DEV_DIR/*/conclave.toml; do
                sed -i 's/^\[raft\]$/&\nheartbeat_ms = 200\nelection_min_ms = 3000\nelection_max_ms = 6000/' $file
                grep -q '^election_min_ms = 3000' $file
            done
            pids() { grep -o '"pid": [0-9]*' $CONCLAVE_DEV_DIR/nodes.json | grep -o '[0-9]*'; }
            old=$(pids)
            kill -9 $old
            for i in $(seq 600); do
                if ! pids | grep -qwF "$old" && test $(pids | wc -l) = $(echo "$old" | wc -l) &&
                    $conclave cluster status --config $cfg --output json | grep -q '"leader": [0-9]'
                then return 0; fi
                sleep 0.1
            done
            cat $CONCLAVE_DEV_DIR/nodes.json; return 1
        }
        term() { $conclave cluster status --config $cfg --output json | grep -o '"term": *[0-9]*'; }
        load() { # requests to every node, or to those places, each on a new connection, until there is a file named stop
            echo 0 > failed
            while ! test -e stop && test -e $CONCLAVE_DEV_DIR/nodes.json; do
                for port in $(ports | { test -z "$1" && cat || sed -n "$(printf '%sp;' "$@")"; }); do
                    test -e stop && break
                    curl -sf --cacert $root -o /dev/null https://localhost:$port/authenticators ||
                        echo $? >> failed
                    echo $port >> asked
                done
            done
        }
        calm() { touch stop; wait $!; rm stop; test "$(cat failed)" = 0 || { cat failed; exit 1; }; wc -l < asked; }
    "#;
    let script = format!("set -e\n{helpers}\n{script}");
    let scratch = package::scratch();
    let output = Command::new(env!("CARGO_BIN_EXE_conclave"))
        .stdin(Stdio::null())
        .env("TMPDIR", scratch.path())
        .envs(environment.iter().copied())
        .args(["dev", "--voters", size[0], "--followers", size[1], "--run", "bash", "-c"])
        .args([&script, "bash", env!("CARGO_BIN_EXE_conclave")])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
}

#[test]
fn a_renewal_is_loaded_by_all_while_requests_run_and_every_chain_verifies() {
    dev(
        ["3", "1"],
        r#"
        $conclave cert list --config $cfg
        patient
        settled
        for port in $(ports); do verify $port $root; done
        before=$(term)
        load & sleep 1
        revision=$($conclave cert renew --config $cfg --output json | grep -o '"revision": [0-9]*' | grep -o '[0-9]*$')
        loaded cluster $revision
        print=$(grep -o '"fingerprint": "[0-9a-f]*"' row.json | head -1 | cut -d'"' -f4)
        sleep 1; calm
        test "$(term)" = "$before" # no election
        for port in $(ports); do verify $port $root; done
        voter=$(ports | head -1)
        test $(present $voter | openssl x509 -outform DER | sha256sum | cut -d' ' -f1) = $print
        follower=$(ports | tail -1)
        present $follower | openssl x509 -noout -ext subjectAltName | grep -q 'cluster/follower'
        # Whoever asks for another's name gets that one's.
        openssl s_client -connect 127.0.0.1:$voter -servername f1 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName | grep -q 'cluster/follower'
        openssl s_client -connect 127.0.0.1:$follower -servername nobody </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName | grep -q 'cluster/follower'
        present $voter | openssl x509 -noout -ext subjectAltName | grep -q 'cluster/voter'
        $conclave cert list --config $cfg
        set +e; $conclave cert list --config $cfg --within 60 >/dev/null; test $? = 2 || exit 1; set -e
        test $($conclave cert renew --config $cfg nothing >/dev/null 2>&1; echo $?) = 6
        curl -sf --cacert $root https://localhost:$voter/metrics | grep -q conclave_certificate_seconds_left
        "#,
    );
}

#[test]
fn a_root_is_replaced_while_requests_run_and_clients_of_the_old_one_are_led_on() {
    dev(
        ["3", "1"],
        r#"
        patient
        settled
        cp $root old.pem; root=old.pem before=$(term)
        load & sleep 1
        $conclave cert rotate-ca --config $cfg
        for i in $(seq 600); do
            $conclave cert list --config $cfg > list; test $(grep -c '^root' list) = 1 && break; sleep 0.1
        done
        cat list; grep -q '^root *2 ' list
        sleep 1; calm
        test "$(term)" = "$before" # no election
        $conclave cert export-ca --config $cfg --out new.pem
        test $(grep -c BEGIN new.pem) = 1
        ! cmp -s old.pem new.pem
        for port in $(ports); do verify $port old.pem; verify $port new.pem; done
        cmp new.pem $CONCLAVE_DEV_DIR/n2/data/tls/root.pem
        "#,
    );
}

#[test]
fn a_scanner_finds_new_protocols_and_forward_secret_ciphers_only() {
    package::package("sslscan", &["sslscan", "--version"], "TLS is scanned with sslscan");
    dev(
        ["1", "1"],
        r#"
        for port in $(ports); do
            sslscan --no-colour --sni-name=localhost 127.0.0.1:$port > scan
            cat scan
            for old in SSLv2 SSLv3 TLSv1.0 TLSv1.1; do grep -Eq "^$old +disabled" scan; done
            for new in TLSv1.2 TLSv1.3; do grep -Eq "^$new +enabled" scan; done
            test -z "$(grep heartbleed scan | grep -v 'not vulnerable')"
            test -z "$(grep -E 'Insecure|Compression enabled|ANONYMOUS|NULL|Weak' scan)"
            grep -Eq '^(Accepted|Preferred)' scan
            test -z "$(grep -E '^(Accepted|Preferred)' scan | grep -vE ' (TLS_(AES|CHACHA20)|ECDHE-ECDSA-.*(GCM|CHACHA20))')"
            grep -Eq '^Signature Algorithm: *ecdsa-with-SHA(256|384)' scan
        done
        "#,
    );
}

#[test]
fn a_voter_that_joins_later_is_named_in_what_all_present() {
    dev(
        ["1", "1"],
        r#"
        free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
        peer=$(free) api=$(free) host=n9.localhost
        mkdir n9
        cat > n9/conclave.toml <<END
[node]
name = "n9"
data = "data"
master_key_file = "master.key"
[peer]
listen = "127.0.0.1:$peer"
[api]
listen = "127.0.0.1:$api"
url = "https://$host:$api"
[tls]
names = ["localhost"]
END
        named() { # every member, n9 too, presents a certificate that names it, or that does not
            for i in $(seq 300); do
                count=0
                for port in $(ports | head -1) $api; do
                    present $port | openssl x509 -noout -checkhost $host | grep -q "does $1" && count=$((count + 1))
                done
                test $count = $2 && return 0
                sleep 0.2
            done
            present $api | openssl x509 -noout -text; return 1
        }
        $conclave cluster seed --config $cfg --name n9 --role voter --out n9.seed
        $conclave cluster join --config n9/conclave.toml --seed n9.seed
        $conclave server --config n9/conclave.toml > n9.log 2>&1 &
        server=$!
        trap 'kill $server' EXIT
        named match 2
        curl -sf --cacert $root --resolve $host:$api:127.0.0.1 https://$host:$api/authenticators
        verify $api $root
        $conclave cert show --config n9/conclave.toml cluster | grep -q 'used by *n9 (has it)'
        $conclave cluster remove --config $cfg n9 || {
            $conclave cluster transfer-leader --config $cfg --to n1
            $conclave cluster remove --config $cfg n9
        }
        for i in $(seq 300); do
            present $(ports | head -1) | openssl x509 -noout -checkhost $host | grep -q 'does NOT' && exit 0
            sleep 0.2
        done
        exit 1
        "#,
    );
}

/// A company's authority in the working folder: `root.crt`, `ca.crt`, and `issue NAME DAYS` for leaves.
const COMPANY: &str = r#"
    cat > company.cnf <<END
[req]
distinguished_name = dn
prompt = no
[dn]
CN = company
[root]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[ca]
basicConstraints = critical,CA:true,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END
    key() { openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out $1.key; }
    key root; key ca
    openssl req -new -x509 -config company.cnf -extensions root -key root.key -subj "/CN=company root" -days 900 -out root.crt
    openssl req -new -config company.cnf -key ca.key -subj "/CN=company issuing" -out ca.csr
    openssl x509 -req -in ca.csr -CA root.crt -CAkey root.key -extfile company.cnf -extensions ca -days 800 -out ca.crt 2>/dev/null
    issue() { # NAME DAYS
        key $1
        printf 'basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:%s\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n' $1 > $1.ext
        openssl req -new -config company.cnf -key $1.key -subj "/CN=$1" -out $1.csr
        openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -extfile $1.ext -days $2 -out $1.crt 2>/dev/null
    }
"#;

#[test]
fn what_a_company_brings_answers_for_its_names_on_every_node_and_a_bad_chain_is_refused() {
    let script = r#"
        mkdir company; cd company
        COMPANY
        issue shop.example.com 200; issue late.example.com 20
        refused() { # REASON, then the arguments of an import
            reason=$1; shift
            set +e; $conclave cert import --config $cfg "$@" 2> why; code=$?; set -e
            test $code = 7 && grep -q "$reason" why || { echo "$reason: $code"; cat why; exit 1; }
        }
        refused 'is missing: add CN=company issuing' shop --chain shop.example.com.crt --key shop.example.com.key --root root.crt
        refused 'the key does not belong' shop --chain shop.example.com.crt --key ca.key --root root.crt
        refused 'is a CA' shop --chain ca.crt --key ca.key --root root.crt
        cat root.crt ca.crt shop.example.com.crt > wrong-order.pem
        load & sleep 0.5
        $conclave cert import --config $cfg shop --chain wrong-order.pem --key shop.example.com.key | grep -q 'answers for shop.example.com'
        loaded edge/shop 1
        cat ca.crt late.example.com.crt > late.pem
        refused 'is in edge/shop already' again --chain wrong-order.pem --key shop.example.com.key
        $conclave cert import --config $cfg late --chain late.pem --key late.example.com.key --root root.crt >/dev/null
        loaded edge/late 1
        calm
        named() { openssl s_client -connect 127.0.0.1:$1 -servername $2 -CAfile root.crt -verify_hostname $2 -verify_return_error -x509_strict </dev/null 2>&1; }
        for port in $(ports); do
            for name in shop.example.com SHOP.example.com late.example.com; do
                named $port $name | grep -q 'Verify return code: 0 (ok)'
            done
            curl -sf --cacert root.crt --resolve shop.example.com:$port:127.0.0.1 -o /dev/null https://shop.example.com:$port/authenticators
            curl -sf --cacert $root -o /dev/null https://localhost:$port/authenticators
            ! named $port other.example.com >/dev/null
        done
        set +e; $conclave cert list --config $cfg > list; test $? = 0 || exit 1
        $conclave cert list --config $cfg --within 25 > /dev/null; test $? = 2 || exit 1; set -e
        cat list; grep -q '^edge/shop .* Ready .*2/2' list
        curl -sf --cacert $root https://localhost:$(ports | head -1)/metrics | grep 'conclave_certificate_not_loaded{name="edge/shop"} 0'
        $conclave cert remove --config $cfg edge/shop
        for i in $(seq 100); do named $(ports | tail -1) shop.example.com >/dev/null || break; sleep 0.1; done
        ! named $(ports | tail -1) shop.example.com >/dev/null
        named $(ports | tail -1) late.example.com >/dev/null
        test $($conclave cert remove --config $cfg cluster >/dev/null 2>&1; echo $?) = 7
        $conclave cert trust --config $cfg | grep -q 'used by *n1 (has it)'
    "#;
    dev(["1", "1"], &script.replace("COMPANY", COMPANY));
}

#[test]
fn a_node_that_was_down_during_a_rotation_comes_back_and_is_level() {
    dev(
        ["3", "1"],
        r#"
        settled
        cp $root old.pem; root=old.pem
        pid=$(python3 -c 'import json, os
nodes = json.load(open(os.environ["CONCLAVE_DEV_DIR"] + "/nodes.json"))
print(next(node["pid"] for node in nodes if node["name"] == "n3"))')
        $conclave cluster transfer-leader --config $cfg --to n1
        load_of() { $conclave cert show --config $cfg cluster --output json | grep -c '"loaded": true'; }
        kill -STOP $pid
        load 1 2 & sleep 0.5
        $conclave cert renew --config $cfg cluster-ca
        $conclave cert renew --config $cfg
        for i in $(seq 300); do test $(load_of) = 2 && break; sleep 0.1; done
        $conclave cert list --config $cfg
        # Until it is back, the new root is published and not used.
        $conclave cert rotate-ca --config $cfg
        sleep 3; test $($conclave cert list --config $cfg | grep -c '^root  ') = 2
        calm
        kill -KILL $pid
        for i in $(seq 900); do
            $conclave cert list --config $cfg > list
            test $(grep -c '^root' list) = 1 && grep -q '^root *2 .* 4/4' list && break
            sleep 0.1
        done
        cat list; grep -q '^root *2 .* 4/4' list
        settled
        $conclave cert export-ca --config $cfg --out new.pem
        for port in $(ports); do verify $port new.pem; done
        cmp new.pem $CONCLAVE_DEV_DIR/n3/data/tls/root.pem
        "#,
    );
}

#[test]
fn a_company_signs_the_intermediate_and_the_cluster_goes_over_to_its_root_and_back() {
    let script = r#"
        settled
        mkdir company; cd company
        COMPANY
        cp $root own.pem
        $conclave cert request --config $cfg --out request.csr
        openssl req -in request.csr -noout -verify
        printf 'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > sub.ext
        openssl x509 -req -in request.csr -CA root.crt -CAkey root.key -extfile sub.ext -days 800 -out signed.crt 2>/dev/null
        cat own.pem root.crt > both.pem; root=$PWD/both.pem
        load & sleep 0.5
        $conclave cert import --config $cfg cluster-ca --chain signed.crt --root root.crt
        gone_over() { # until there is that generation of the root alone, loaded by all
            for i in $(seq 900); do
                $conclave cert list --config $cfg > list || true
                test $(grep -c '^root' list) = 1 && grep -q "^root *$1 .* 4/4" list && return 0
                sleep 0.1
            done
            cat list; return 1
        }
        gone_over 2
        settled
        calm
        $conclave cert export-ca --config $cfg --out trusted.pem
        openssl x509 -in trusted.pem -noout -subject | grep -q 'company root'
        for port in $(ports); do verify $port trusted.pem; done
        ! $conclave cert renew --config $cfg cluster-ca 2> why; grep -q 'comes from outside' why
        cat list
        $conclave cert rotate-ca --config $cfg
        gone_over 3
        settled
        $conclave cert export-ca --config $cfg --out again.pem
        openssl x509 -in again.pem -noout -subject | grep -q 'Conclave root 3'
        for port in $(ports); do verify $port again.pem; done
    "#;
    dev(["3", "1"], &script.replace("COMPANY", COMPANY));
}

/// Makes sure that programs can be shown another time.
fn faketime() {
    let why = "this test runs nodes with clocks that are off";
    package("faketime", &["faketime", "-f", "+1h", "true"], why);
}

#[test]
fn a_clock_that_is_an_hour_off_keeps_nobody_from_taking_what_is_issued() {
    faketime();
    dev(
        ["1", "1"],
        r#"
        free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
        library=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1)
        # In the background; it becomes the program, so that whoever ends it ends that.
        off() { FAKETIME=$1 FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD=$library exec "${@:2}"; }
        root=old.pem; cp $CONJUR_CERT_FILE old.pem
        for clock in -1h +1h; do
            name=n$(test $clock = -1h && echo 8 || echo 9)
            peer=$(free) api=$(free)
            mkdir $name
            cat > $name/conclave.toml <<END
[node]
name = "$name"
data = "data"
master_key_file = "master.key"
[peer]
listen = "127.0.0.1:$peer"
[api]
listen = "127.0.0.1:$api"
url = "https://$name.localhost:$api"
[tls]
names = ["localhost"]
END
            $conclave cluster seed --config $cfg --name $name --role voter --out $name.seed
            $conclave cluster join --config $name/conclave.toml --seed $name.seed
            off $clock $conclave server --config $name/conclave.toml > $name.log 2>&1 &
            echo $! >> pids
            trap 'kill $(cat pids)' EXIT
            for i in $(seq 300); do
                $conclave cluster members --config $cfg --output json > members || true
                $conclave cert show --config $cfg cluster > row || true
                grep -q "$name (has it)" row && break; sleep 0.1
            done
            grep "$name (has it)" row
            # What is issued is taken there, and what is issued there is taken by all.
            settled
            revision=$($conclave cert renew --config $cfg --output json | grep -o '"revision": [0-9]*' | grep -o '[0-9]*$')
            loaded cluster $revision
            $conclave cluster transfer-leader --config $cfg --to $name
            revision=$($conclave cert renew --config $cfg --output json | grep -o '"revision": [0-9]*' | grep -o '[0-9]*$')
            loaded cluster $revision
            for port in $(ports) $api; do verify $port $root; done
            curl -sf --cacert $root -o /dev/null https://localhost:$api/authenticators
            if grep -i 'invalid peer certificate' $name.log; then exit 1; fi
            $conclave cert list --config $cfg | grep "^$name: its clock is -*3[56][0-9][0-9] s ahead"
            $conclave cluster transfer-leader --config $cfg --to n1
        done
        # Measured when a member tells the leader how it stands, which it does every few seconds.
        ahead() { curl -sf --cacert $root https://localhost:$(ports | head -1)/metrics | grep 'conclave_clock_ahead_seconds.* 3[56][0-9][0-9]'; }
        for i in $(seq 300); do ahead && break; sleep 0.1; done
        ahead
        "#,
    );
}

#[test]
fn a_node_that_returns_after_its_certificate_expired_helps_itself() {
    faketime();
    // All of the cluster, and whoever looks at it, takes the time from one file, which runs ahead.
    let clock = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(clock.path(), "+0\n").unwrap();
    let library = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let library = library.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let library = library.into_iter().find(|path| path.exists()).unwrap();
    let environment = [
        ("LD_PRELOAD", library.as_os_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.path().as_os_str()),
        ("FAKETIME_CACHE_DURATION", "1".as_ref()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".as_ref()),
    ];
    dev_with(
        &environment,
        ["3", "0"],
        r#"
        settled
        $conclave cluster transfer-leader --config $cfg --to n1
        pid() { python3 -c 'import json, os
nodes = json.load(open(os.environ["CONCLAVE_DEV_DIR"] + "/nodes.json"))
print(next(node["pid"] for node in nodes if node["name"] == "n3"))'; }
        old=$(pid); kill -STOP $old
        generation() { $conclave cert show --config $cfg cluster --output json | grep -o '"revision": [0-9]*' | grep -o '[0-9]*$'; }
        before=$(generation)
        # Three weeks later what is presented is renewed; two more and what the node has is over.
        echo +21d > $FAKETIME_TIMESTAMP_FILE
        for i in $(seq 300); do test $(generation) -gt $before && break; sleep 0.1; done
        test $(generation) -gt $before
        echo +35d > $FAKETIME_TIMESTAMP_FILE
        sleep 2
        end=$(openssl x509 -enddate -noout -in $CONCLAVE_DEV_DIR/n3/data/tls/cluster.pem | cut -d= -f2)
        test $(date -d "$end" +%s) -lt $(date +%s)
        kill -KILL $old
        loaded cluster $(generation)
        test "$(pid)" != $old
        openssl x509 -checkend 86400 -noout -in $CONCLAVE_DEV_DIR/n3/data/tls/cluster.pem
        for port in $(ports); do
            # What a node has loaded it has not yet begun to present.
            for i in $(seq 300); do present $port >/dev/null 2>&1 && (verify $port $root) && break; sleep 0.1; done
            verify $port $root
            curl -sf --cacert $root -o /dev/null https://localhost:$port/authenticators
        done
        "#,
    );
}
