//! What an operator must be told: a key that a reload cannot apply, sockets that systemd did not pass, memory that is lacking.

use std::net::TcpListener;

use super::harness::{Master, Place, Plan, eventually, http};

/// A free address, where the pool, which listens on 127.0.0.1, cannot take it.
fn free() -> String {
    TcpListener::bind("127.0.0.2:0").and_then(|port| port.local_addr()).expect("a port").to_string()
}

fn answers(address: &str) -> bool {
    http::get(address, "/healthz").is_ok_and(|answer| answer.status == 200)
}

/// The last line that systemd was told.
fn status_line(master: &Master) -> String {
    let all = master.systemd().messages();
    all.iter().rev().find_map(|it| it.strip_prefix("STATUS=")).unwrap_or_default().to_owned()
}

#[test]
fn reload_applies_another_status_address_or_says_so() {
    let place = Place::new();
    place.release("v2", "exit_at_start=1");
    let [first, second, third] = [free(), free(), free()];
    let listen = |place: &Place, address: &str| place.configure("count = 1", &format!("[status]\nlisten = '{address}'"));
    listen(&place, &first);
    let master = Plan::new(place).start();
    assert!(answers(&first));

    listen(&master.place, &second);
    master.ok(&["reload"]);
    assert!(answers(&second), "{}", master.log());
    assert!(!answers(&first), "the earlier address is served on");

    // Not served: the answer says so, and the status until it is mended.
    let taken = TcpListener::bind(&third).expect("the port");
    listen(&master.place, &third);
    let said = master.ok(&["reload"]);
    assert!(said.err.contains("warning: status.listen = ") && said.err.contains("Address already in use"), "{said:?}");
    assert!(answers(&second));
    let told = format!("status.listen = \"{third}\" is not served, \"{second}\" still is");
    master.systemd().wait(&told, |all| all.iter().any(|it| it.starts_with("STATUS=") && it.contains(&told)).then_some(()));
    assert!(master.verb(&["status"]).out.contains("is not served"), "{:?}", master.verb(&["status"]));
    drop(taken);
    let said = master.ok(&["reload"]);
    // The same configuration again: the one warning is that the release is unchanged.
    let mut warnings = said.err.lines().filter(|line| line.contains("warning"));
    assert!(warnings.all(|line| line.contains("runs what the one before it ran")), "{said:?}");
    assert!(answers(&third) && !answers(&second));
    eventually(
        "the status is as usual",
        || (!status_line(&master).contains("is not served")).then_some(()),
        || status_line(&master),
    );

    // A failed reload changes nothing.
    master.place.current("v2");
    listen(&master.place, &first);
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    assert!(answers(&third) && !answers(&first));
}

#[test]
fn socket_that_systemd_did_not_pass_degrades_the_instance() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    place.configure("count = 2\nready = 'running'\nsettle = '10ms'", "");
    std::fs::create_dir(place.path("bin")).expect("bin");
    place.program(
        "bin/systemctl",
        "#!/bin/sh\ncase \"$*\" in\n*TriggeredBy*) echo TriggeredBy=ratoon@pool.socket ;;\n\
         *Listen*) echo 'Listen=127.0.0.1:8081 (Stream)' ;;\n*) echo 'systemd 257 (257)' ;;\nesac\n",
    );
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    let plan = Plan::new(place).listens_nowhere().environment("PATH", path).environment("INVOCATION_ID", "1");
    let master = plan.start();
    let why = "degraded: systemd passed no socket for 127.0.0.1:8081, which ratoon@pool.socket names";
    master.systemd().wait(why, |all| all.iter().any(|it| it.starts_with("STATUS=") && it.contains(why)).then_some(()));
    let status = master.wait("degraded", |status| status["degraded"] == true);
    assert_eq!(status["workers_ready"], 2, "{status:#}");
    let said = master.verb(&["status"]);
    assert!(said.out.contains("systemctl restart ratoon@pool.socket"), "{said:?}");
    master.wait_for_log(why);
}

#[test]
fn reload_that_lacks_memory_is_refused_only_on_request() {
    let place = Place::new();
    let many = "count = 10000\nready = 'running'\nsettle = '10ms'";
    place.wrap(
        "v1",
        "[ $RATOON_GENERATION != 1 ] || exec /usr/bin/python3 -c 'import time; kept = bytes(16 << 20); time.sleep(1000)'",
    );
    place.configure("count = 1\nready = 'running'\nsettle = '1s'", "");
    let master = Plan::new(place).start();
    master.place.configure(many, "[reload]\nmemory = 'refuse'");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("not enough memory for 10000 new workers"), "{said:?}");
    // Not looked at: the next step of the reload is reached.
    master.place.configure(many, "[reload]\nmemory = 'ignore'\ncheck = ['false']");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("reload.check"), "{said:?}");
    master.place.configure(many, "[reload]\ncheck = ['false']");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("reload.check"), "{said:?}");
}
