//! Who may change something: with other users, and with a polkit of the test's own.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use ratoon::api::{ReloadAnswer, Reply, Request};
use ratoon::pool::Outcome;

use super::bus::{Bus, Ran, Running, error_name, own_uid};
use super::instance::Instance;

/// A user who is neither root nor the master's.
const STRANGER: u32 = 65534;

/// An instance of a master that runs as root, as far as it knows: to callers with other user ids they are strangers.
fn strange_instance(bus: &Bus) -> Instance {
    let instance = Instance::start(bus, "web", 0);
    instance.until_log("on the message bus as");
    instance
}

fn as_stranger(bus: &Bus, arguments: &[&str]) -> Ran {
    Ran(bus.command_as(Some(STRANGER)).args(arguments).output().unwrap())
}

fn reload(interactive: bool) -> Vec<&'static str> {
    let flag = if interactive { "--allow-interactive-authorization=yes" } else { "--allow-interactive-authorization=no" };
    vec![flag, "call", "org.ratoon1.web", "/org/ratoon1", "org.ratoon1.Manager", "Reload"]
}

#[test]
fn a_stranger_reads_and_changes_nothing() {
    let bus = Bus::start();
    let instance = strange_instance(&bus);
    let monitor = bus.monitor(&["--match=type=error"]);
    let state = ["get-property", "org.ratoon1.web", "/org/ratoon1", "org.ratoon1.Manager", "State"];
    assert_eq!(as_stranger(&bus, &state).json()["data"], "running");
    as_stranger(&bus, &["introspect", "org.ratoon1.web", "/org/ratoon1/worker/1"]).good();
    for method in [
        ["Reload"].as_slice(),
        &["Abort"],
        &["Promote"],
        &["Scale", "u", "9"],
        &["ScaleAuto"],
        &["Recycle", "t", "0"],
        &["Pause"],
        &["Resume"],
        &["Upgrade"],
    ] {
        let call = [&["call", "org.ratoon1.web", "/org/ratoon1", "org.ratoon1.Manager"], method].concat();
        // busctl says less than it was told.
        assert_eq!(as_stranger(&bus, &call).bad(), "Call failed: Access denied\n");
        let said = monitor.until(|message| error_name(message) == "org.freedesktop.DBus.Error.AccessDenied");
        let said = said["payload"]["data"][0].as_str().unwrap();
        assert!(said.contains("is for root") && said.contains("polkit could not be asked"), "{said}");
    }
    let level = ["set-property", "org.ratoon1.web", "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1", "LogLevel"];
    as_stranger(&bus, &[level.as_slice(), &["s", "debug"]].concat()).bad();
    instance.assert_unasked();
    let to = ["get-property", "org.ratoon1.web", "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1", "LogLevel"];
    assert_eq!(bus.busctl(&to).json()["data"], "info");
}

/// What the fake polkit was asked: action, details, flags.
type Asked = Arc<Mutex<Vec<(String, HashMap<String, String>, u32)>>>;

/// A polkit that always gives the same answer.
struct Polkit {
    verdict: (bool, bool),
    asked: Asked,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, zbus::OwnedVariant>),
        action: String,
        details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> (bool, bool, HashMap<String, String>) {
        assert_eq!(subject.0, "system-bus-name");
        self.asked.lock().unwrap().push((action, details, flags));
        (self.verdict.0, self.verdict.1, HashMap::new())
    }
}

async fn polkit(instance: &Instance, verdict: (bool, bool)) -> (zbus::Connection, Asked) {
    let asked = Asked::default();
    let connection = instance.client().await;
    let path = "/org/freedesktop/PolicyKit1/Authority";
    connection.object_server().at(path, Polkit { verdict, asked: asked.clone() }).await.unwrap();
    connection.request_name("org.freedesktop.PolicyKit1").await.unwrap();
    (connection, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn polkit_decides_over_strangers() {
    let bus = Bus::start();
    let instance = strange_instance(&bus);
    // Yes.
    let (connection, asked) = polkit(&instance, (true, false)).await;
    let call = Running(bus.command_as(Some(STRANGER)).args(reload(true)).stdout(Stdio::piped()).spawn().unwrap());
    let (_, ask, reply) = instance.asked();
    assert_eq!(ask, Request::Reload);
    let answer = ReloadAnswer::new(2, Outcome::Committed, "");
    reply.unwrap().send(Reply::Reload(answer)).unwrap();
    call.ran().good();
    let details = HashMap::from([("verb", "reload"), ("unit", "ratoon@web.service")]);
    let details: HashMap<_, _> = details.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let action = "org.freedesktop.systemd1.manage-units".to_owned();
    // The caller lets polkit ask, and says so.
    assert_eq!(asked.lock().unwrap().pop(), Some((action.clone(), details.clone(), 1)));
    connection.close().await.unwrap();
    // No.
    let (connection, asked) = polkit(&instance, (false, false)).await;
    let monitor = bus.monitor(&["--match=type=error"]);
    as_stranger(&bus, &reload(false)).bad();
    monitor.until(|message| error_name(message) == "org.freedesktop.DBus.Error.AccessDenied");
    assert_eq!(asked.lock().unwrap().pop(), Some((action, details, 0)));
    connection.close().await.unwrap();
    // Only with an authentication that nobody gives.
    let (connection, _) = polkit(&instance, (false, true)).await;
    as_stranger(&bus, &reload(false)).bad();
    let name = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
    monitor.until(|message| error_name(message) == name);
    connection.close().await.unwrap();
    instance.assert_unasked();
}

#[tokio::test(flavor = "multi_thread")]
async fn master_that_is_not_root_does_not_ask_polkit() {
    let bus = Bus::start();
    let instance = Instance::start(&bus, "web", STRANGER - 1);
    instance.until_log("on the message bus as");
    let (_connection, asked) = polkit(&instance, (true, false)).await;
    let monitor = bus.monitor(&["--match=type=error"]);
    for (method, way) in
        [(["Reload"].as_slice(), "`systemctl reload ratoon@web.service`"), (&["Scale", "u", "9"], "ask with sudo")]
    {
        let call = [&["call", "org.ratoon1.web", "/org/ratoon1", "org.ratoon1.Manager"], method].concat();
        as_stranger(&bus, &call).bad();
        let said = monitor.until(|message| error_name(message) == "org.freedesktop.DBus.Error.AccessDenied");
        let said = said["payload"]["data"][0].as_str().unwrap();
        assert!(said.contains("a master that is not root cannot ask polkit") && said.contains(way), "{said}");
    }
    // The status is answered without details, and without a question too.
    as_stranger(&bus, &["call", "org.ratoon1.web", "/org/ratoon1", "org.ratoon1.Manager", "GetStatus"]).good();
    assert_eq!(*asked.lock().unwrap(), []);
    instance.assert_unasked();
}

/// GetStatus as this user (the test's own for `None`), with these groups.
fn status_as(bus: &Bus, name: &str, user: Option<(u32, &str)>) -> serde_json::Value {
    let arguments = ["call", name, "/org/ratoon1", "org.ratoon1.Manager", "GetStatus"];
    let output = match user {
        None => bus.command().args(arguments).output(),
        Some((uid, groups)) => {
            let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
            let address = format!("--address={}", bus.address());
            let user = [format!("--reuid={uid}"), format!("--regid={uid}"), groups];
            std::process::Command::new("setpriv").args(user).args(["busctl", &address, "--json=short"]).args(arguments).output()
        }
    };
    let reply = Ran(output.unwrap()).json();
    serde_json::from_str(reply["data"][0].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn get_status_hides_details_per_caller() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    instance.order(|world| {
        world.document.failures.push(ratoon::status::tree::Failure {
            how: "exit 1".into(),
            last_status: Some("s3cret".into()),
            log_tail: vec!["postgres://app:s3cret@db/prod".into()],
            ..Default::default()
        });
    });
    let name = "org.ratoon1.web";
    let shows = |status: &serde_json::Value| status.to_string().contains("s3cret");
    assert!(shows(&status_as(&bus, name, None)));
    let hidden = status_as(&bus, name, Some((STRANGER, "")));
    let failure = &hidden["failures"][0];
    assert_eq!(
        (&failure["how"], &failure["log_tail"], &failure["last_status"]),
        (&"exit 1".into(), &serde_json::json!([]), &().into())
    );
    assert!(!shows(&hidden), "{hidden}");
    let adm = ratoon::sys::accounts::group("adm").expect("a group of every Debian").to_string();
    assert!(shows(&status_as(&bus, name, Some((STRANGER, &adm)))));
    // Whom polkit lets manage units at once may change the pool, and is not asked to authenticate for a read.
    let (connection, asked) = polkit(&instance, (true, false)).await;
    assert!(shows(&status_as(&bus, name, Some((STRANGER, "")))));
    let (_, details, flags) = asked.lock().unwrap().pop().expect("polkit is asked");
    assert_eq!((details["verb"].as_str(), flags), ("get-status", 0));
    connection.close().await.unwrap();
    let (connection, _) = polkit(&instance, (false, true)).await;
    assert!(!shows(&status_as(&bus, name, Some((STRANGER, "")))));
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_and_the_masters_user_are_not_asked_about() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let (_connection, asked) = polkit(&instance, (false, false)).await;
    let call = instance.calling(&bus, &["Abort"]);
    let (_, ask, reply) = instance.asked();
    assert_eq!(ask, Request::Abort);
    reply.unwrap().send(Reply::Done).unwrap();
    call.ran().good();
    if own_uid() == 0 {
        // The master's user, who is not root.
        let other = Instance::start(&bus, "api", STRANGER);
        other.until_log("on the message bus as");
        let call = ["call", "org.ratoon1.api", "/org/ratoon1", "org.ratoon1.Manager", "Abort"];
        let call = Running(bus.command_as(Some(STRANGER)).args(call).stdout(Stdio::piped()).spawn().unwrap());
        other.asked().2.unwrap().send(Reply::Done).unwrap();
        call.ran().good();
    }
    assert!(asked.lock().unwrap().is_empty());
}
