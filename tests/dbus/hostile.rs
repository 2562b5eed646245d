//! Callers who send nonsense, or too much.

use std::os::fd::AsFd;

use zbus::{Connection, Error};

use super::bus::Bus;
use super::changes::unanswered;
use super::instance::Instance;

const MANAGER: &str = "org.ratoon1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The name of the error with which a call fails.
async fn error<B>(client: &Connection, path: &str, interface: &str, method: &str, body: &B) -> String
where
    B: serde::Serialize + zbus::DynamicType,
{
    match client.call_method(Some("org.ratoon1.web"), path, Some(interface), method, body).await {
        Ok(_) => "no error".into(),
        Err(Error::MethodError(name, ..)) => name.to_string(),
        Err(Error::FDO(error)) => zbus::DBusError::name(&*error).to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn nonsense_is_refused_by_its_name() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let client = instance.client().await;
    let root = "/org/ratoon1";
    let standard = |name: &str| format!("org.freedesktop.DBus.Error.{name}");
    assert_eq!(error(&client, root, MANAGER, "Reload", &5u32).await, standard("InvalidArgs"));
    assert_eq!(error(&client, root, MANAGER, "Scale", &"5").await, standard("InvalidArgs"));
    assert_eq!(error(&client, root, MANAGER, "Scale", &-5i32).await, standard("InvalidArgs"));
    assert_eq!(error(&client, root, MANAGER, "Scale", &(5u32, 5u32)).await, standard("InvalidArgs"));
    assert_eq!(error(&client, root, MANAGER, "Recycle", &5u32).await, standard("InvalidArgs"));
    assert_eq!(error(&client, root, MANAGER, "Explode", &()).await, standard("UnknownMethod"));
    assert_eq!(error(&client, root, "org.example.Nothing", "Reload", &()).await, standard("UnknownInterface"));
    assert_eq!(error(&client, "/org/ratoon1/worker/99", PROPERTIES, "GetAll", &"").await, standard("UnknownObject"));
    assert_eq!(error(&client, "/org/ratoon1/worker/01", PROPERTIES, "GetAll", &"").await, standard("UnknownObject"));
    assert_eq!(error(&client, root, PROPERTIES, "Get", &(MANAGER, "Nothing")).await, standard("UnknownProperty"));
    assert_eq!(error(&client, root, PROPERTIES, "Get", &("org.ratoon1.Worker", "Id")).await, standard("UnknownInterface"));
    assert_eq!(error(&client, root, PROPERTIES, "Get", &(PROPERTIES, "Id")).await, standard("UnknownProperty"));
    let value = zbus::Variant::from("stopping");
    assert_eq!(error(&client, root, PROPERTIES, "Set", &(MANAGER, "State", &value)).await, standard("PropertyReadOnly"));
    assert_eq!(error(&client, root, PROPERTIES, "Set", &(MANAGER, "Nothing", &value)).await, standard("UnknownProperty"));
    // An empty name of an interface means any.
    assert_eq!(error(&client, root, PROPERTIES, "Get", &("", "State")).await, "no error");
    instance.assert_unasked();
}

#[tokio::test]
async fn descriptors_do_not_reach_the_master() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let client = instance.client().await;
    let file = std::fs::File::open("/dev/null").unwrap();
    let refused = error(&client, "/org/ratoon1", MANAGER, "Reload", &zbus::Fd::from(file.as_fd())).await;
    assert_ne!(refused, "org.freedesktop.DBus.Error.InvalidArgs", "the bus should have refused");
    assert_ne!(refused, "no error");
    assert_eq!(instance.property(&bus, "State")["data"], "running");
    instance.assert_unasked();
}

/// Longer than a flood takes on a busy machine.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);
/// How often the reloads that were told are counted while no answer comes.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_is_answered_or_refused_and_over_afterwards() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let client = instance.client().await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..5000 {
        let client = client.clone();
        let method = if number % 5 == 0 { "Reload" } else { "GetStatus" };
        calls.spawn(async move {
            match client.call_method(Some("org.ratoon1.web"), "/org/ratoon1", Some(MANAGER), method, &()).await {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        });
    }
    // Reloads are never answered while the flood lasts: who sent them can't have more open than the limit.
    let mut answered = 0;
    let mut refused = 0;
    let mut reloads = Vec::new();
    let limit = std::time::Instant::now() + DEADLINE;
    while calls.len() > reloads.len() {
        // The last answer may come before the last reload is told: then no answer follows.
        match tokio::time::timeout(LOOK, calls.join_next()).await {
            Ok(Some(Ok(Ok(())))) => answered += 1,
            Ok(Some(Ok(Err(error)))) => {
                assert!(error.contains("LimitsExceeded"), "{error}");
                refused += 1;
            }
            Ok(Some(Err(panic))) => panic!("{panic}"),
            Ok(None) => break,
            Err(_) => assert!(std::time::Instant::now() < limit, "{answered} {refused} {}", reloads.len()),
        }
        reloads.extend(instance.told.try_iter());
    }
    assert!(answered > 0 && refused > 0, "{answered} {refused}");
    assert!(reloads.len() <= 128, "{}", reloads.len());
    assert_eq!(answered + refused + reloads.len(), 5000);
    drop(reloads);
    while let Some(result) = calls.join_next().await {
        result.unwrap().unwrap_err();
    }
    assert_eq!(instance.property(&bus, "State")["data"], "running");
    assert_eq!(error(&client, "/org/ratoon1", MANAGER, "GetStatus", &()).await, "no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_questions_without_a_wish_for_answers_costs_nothing() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let client = instance.client().await;
    for method in ["GetStatus", "Nothing"] {
        let call = unanswered(method);
        for _ in 0..20_000 {
            client.send(&call.clone().build(&()).unwrap()).await.unwrap();
        }
    }
    // Behind all of them in the queue, and answered.
    assert_eq!(error(&client, "/org/ratoon1", MANAGER, "GetStatus", &()).await, "no error");
    instance.assert_unasked();
}
