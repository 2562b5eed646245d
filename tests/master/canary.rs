//! `reload.steps`: the first workers of a new release serve beside the whole old generation, and their requests are judged.

use std::fs;
use std::time::Instant;

use super::harness::master::{Verb, pids, wait_for_end_of, workers};
use super::harness::processes;
use super::harness::{Master, Place, Signal, TIMEOUT, Value, eventually};

/// An HTTP server that answers with its version, and with 500 to each Nth request where the file `fails` has N. It counts by itself.
const SERVER: &str = r#"#!/usr/bin/env python3
import http.server, json, os, select, signal, socket

counters = {"requests": 0, "responses_2xx": 0, "responses_5xx": 0}
version, fails = open("version").read(), int(open("fails").read())
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

def tell(message):
    notify.sendto(message.encode(), os.environ["NOTIFY_SOCKET"])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        counters["requests"] += 1
        status = 500 if fails and counters["requests"] % fails == 0 else 200
        counters["responses_%dxx" % (status // 100)] += 1
        tell("X_RATOON_COUNTERS=" + json.dumps(counters))
        self.send_response(status)
        self.send_header("content-length", str(len(version)))
        self.end_headers()
        self.wfile.write(version.encode())

    def log_message(self, *words):
        pass

leaving = []
signal.signal(signal.SIGTERM, lambda *_: leaving.append(True))
server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.socket.setblocking(False)  # another worker may take the connection first
tell("READY=1")
while not leaving:
    if select.select([server.socket], [], [], 0.1)[0]:
        server.handle_request()
"#;

/// A pool of four of the release v1, whose reload to v2, which answers 500 to each Nth request, goes by these keys. `PLACE` in them is
/// the directory of the test.
pub(super) fn start(table: &str, fails: u32) -> Master {
    let place = Place::new();
    for (name, fails) in [("v1", 0), ("v2", fails)] {
        let _ = std::fs::remove_dir_all(place.path(name));
        std::fs::create_dir_all(place.path(name)).expect("a release");
        place.program(&format!("{name}/worker"), SERVER);
        place.write(&format!("{name}/version"), name);
        place.write(&format!("{name}/fails"), &fails.to_string());
    }
    let table = table.replace("PLACE", place.root().to_str().expect("text"));
    let master = place.pool("count = 4", &format!("[reload]\nprobation = '0s'\n{table}")).start();
    master.place.current("v2");
    master
}

/// Begins a reload and waits until its first step waits.
fn canary(master: &Master) -> Verb {
    let reload = master.begin(&["reload"]);
    master.wait_for_log("canary of generation 2: 1/4 workers, waiting");
    let canary = &master.status()["canary"];
    let shown = ["generation", "step", "workers", "workers_configured"].map(|field| canary[field].as_u64());
    assert_eq!((shown, &canary["waits"]), ([Some(2), Some(1), Some(1), Some(4)], &true.into()), "{canary:#}");
    reload
}

/// Asks until the reload has ended; how many answers came from v1 and v2.
fn ask_until_the_end(master: &Master) -> [u32; 2] {
    let deadline = Instant::now() + TIMEOUT;
    let mut answers = [0, 0];
    loop {
        for _ in 0..20 {
            let answer = master.try_get("/").expect("no request is lost");
            answers[usize::from(answer.body.contains("v2"))] += 1;
        }
        if !master.status()["last_reload"].is_null() {
            return answers;
        }
        assert!(Instant::now() < deadline, "the reload does not end: {answers:?}\n{}", master.log());
    }
}

#[test]
fn canary_that_answers_500_is_rolled_back_by_its_requests() {
    let master = start("steps = ['1', '100%']\nstep_time = '1h'", 2);
    let before = pids(&master.status());
    let reload = canary(&master);
    let answers = ask_until_the_end(&master);
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("rolled back: the canary failed: "), "{said:?}");
    assert!(said.err.contains("requests failed, 0 of "), "{said:?}");
    let status = master.wait("the canary is gone", |status| workers(status).len() == 4);
    assert_eq!((&status["last_reload"]["result"], pids(&status)), (&"rolled-back".into(), before), "{status:#}");
    assert!(answers[1] >= 50, "{answers:?}");
    assert!(master.get("/").contains("v1"));
}

#[test]
fn good_release_passes_its_steps_under_requests() {
    let master = start("steps = [1, '50%']\nstep_time = '1500ms'", 0);
    let reload = canary(&master);
    let answers = ask_until_the_end(&master);
    let said = reload.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(answers[0] > 0, "{answers:?}");
    for line in ["canary step 1 of 2: 1/4 workers, ", "canary step 1 of 2 is over: ", "canary step 2 of 2: 2/4 workers, "] {
        assert!(said.out.contains(line), "{line:?} is not in\n{}", said.out);
    }
    for line in ["canary of generation 2: the step has passed; going on with 2 workers", "2/4 workers, waiting for 1s 500ms"] {
        assert!(master.log().contains(line), "{line:?} is not in\n{}", master.log());
    }
    master.systemd().wait("the canary in STATUS", |messages| {
        messages.iter().any(|message| message.contains("STATUS=canary of generation 2: 1/4 workers")).then_some(())
    });
    master.wait_until_calm();
    assert!(master.get("/").contains("v2"));
}

#[test]
fn manual_canary_waits_for_promote_and_refuses_an_upgrade() {
    let master = start("steps = ['1']\nstep_time = 'manual'", 0);
    assert_eq!(master.verb(&["promote"]).code, Some(1), "no canary waits");
    let old = pids(&master.status());
    let reload = canary(&master);
    let status = master.status();
    assert_eq!(workers(&status).len(), 5, "{status:#}");
    assert!(old.iter().all(|pid| pids(&status).contains(pid)), "an old worker was touched");
    // systemd waits for a promotion as long as the canary does: promote_timeout is 1h.
    let hour = |message: &String| {
        let mut fields = message.lines().filter_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
        fields.any(|usec| usec.parse::<u64>().is_ok_and(|usec| usec >= 3_600_000_000))
    };
    master.systemd().wait("time for the canary", |messages| messages.iter().any(hour).then_some(()));
    let refused = master.verb(&["upgrade"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("a canary of generation 2 is under way; ask again at its end"), "{refused:?}");
    let promoted = master.ok(&["promote"]);
    assert!(promoted.out.contains("the canary is promoted"), "{promoted:?}");
    let said = reload.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    master.wait_until_calm();
    assert!(master.get("/").contains("v2"));
}

#[test]
fn canary_that_is_killed_is_rolled_back() {
    let master = start("steps = ['1']\nstep_time = 'manual'", 0);
    let reload = canary(&master);
    let is_new = |worker: &&Value| worker["generation"] == 2;
    let pid = workers(&master.status()).iter().find(is_new).and_then(|worker| worker["pid"].as_u64()).expect("the canary");
    processes::signal(u32::try_from(pid).expect("a pid"), Signal::KILL);
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("signal SIGKILL"), "{said:?}");
    assert!(master.get("/").contains("v1"));
}

#[test]
fn canary_that_nobody_promotes_is_rolled_back() {
    let master = start("steps = ['1']\nstep_time = 'manual'\npromote_timeout = '500ms'", 0);
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("nobody promoted the canary within 500ms"), "{said:?}");
}

/// A command of a release that notes what it was asked and ends with the status in the file `verdict`.
const JUDGE: &str = "steps = ['1']\nstep_time = '1500ms'\njudge_command = ['sh', '-c', 'cat >PLACE/asked.new && mv PLACE/asked.new PLACE/asked; echo seen; exit $(cat PLACE/verdict)']";

#[test]
fn judge_command_decides_with_the_figures_of_both_generations() {
    let master = start(JUDGE, 0);
    master.place.write("verdict", "1");
    let reload = canary(&master);
    ask_until_the_end(&master);
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("the canary failed: reload.judge_command \"sh\": exit 1"), "{said:?}");
    assert!(said.err.contains("seen"), "what it printed: {said:?}");
    let asked: Value = serde_json::from_str(&master.place.read("asked")).expect("JSON");
    assert_eq!(
        (&asked["generation"], &asked["step"], &asked["old"]["generation"]),
        (&2.into(), &1.into(), &1.into()),
        "{asked:#}"
    );
    assert!(asked["old"]["requests"].as_u64() > Some(0) && asked["old"]["failed"] == 0, "{asked:#}");
    assert!(master.get("/").contains("v1"));
    // With status 0 the next one goes on.
    master.place.write("verdict", "0");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    master.wait_until_calm();
    assert!(master.get("/").contains("v2"));
}

#[test]
fn judge_command_ends_with_its_canary() {
    let judge = "steps = ['1']\nstep_time = '1500ms'\njudge_command = ['sh', '-c', \"trap '' TERM; echo $$ >PLACE/judge.new; mv PLACE/judge.new PLACE/judge; sleep 600\"]";
    let master = start(judge, 0);
    let reload = canary(&master);
    let pid = eventually("the command", || fs::read_to_string(master.place.path("judge")).ok(), || master.log());
    assert_eq!(master.verb(&["abort"]).code, Some(0));
    assert_eq!(reload.end().code, Some(1));
    wait_for_end_of(pid.trim().parse().expect("a number"));
}
