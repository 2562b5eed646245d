//! Makes the status document without details, for readers who may not see them (`status.details`).
//!
//! Law: a hidden field is `null` or `[]`, never a text that could be taken for the truth. All fields that may hold a secret are
//! hidden: lines that workers printed, the last status of a failed worker, the output of a check or a hook, `info`, URLs, and
//! addresses of clients. A living worker's `STATUS=` stays, since systemd and the bus show it to everyone.

use super::tree::{Connection, Document, Failure, Request, Worker};

/// The JSON of a document without its details, in one line that ends with a newline. Takes as long as parsing and writing the document.
///
/// # Errors
/// serde_json could not read or write it.
pub fn without_details(line: &str) -> serde_json::Result<String> {
    let mut document: Document = serde_json::from_str(line)?;
    document.details_hidden = true;
    document.workers.iter_mut().for_each(worker);
    document.failures.iter_mut().for_each(failure);
    if let Some(last) = &mut document.last_reload {
        last.detail = None;
        last.output.clear();
    }
    let mut line = serde_json::to_string(&document)?;
    line.push('\n');
    Ok(line)
}

fn worker(worker: &mut Worker) {
    worker.info = None;
    worker.active_connections.iter_mut().for_each(connection);
}

fn connection(connection: &mut Connection) {
    connection.remote_address = None;
    connection.remote_port = None;
    connection.request.iter_mut().for_each(request);
}

fn failure(failure: &mut Failure) {
    failure.last_status = None;
    failure.detail = None;
    failure.log_head.clear();
    failure.log_tail.clear();
    failure.serving.iter_mut().for_each(request);
}

fn request(request: &mut Request) {
    request.ip = None;
    request.url = None;
    request.info = None;
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    #[test]
    fn details_are_null_and_the_rest_is_as_it_was() {
        let request = || Request {
            state: "processing".into(),
            method: "GET".into(),
            ip: Some("SECRET".into()),
            url: Some("SECRET".into()),
            info: Some(Map::from_iter([("SECRET".to_owned(), json!("SECRET"))])),
            ..Request::default()
        };
        let connection = Connection {
            state: "active".into(),
            remote_address: Some("SECRET".into()),
            remote_port: Some(4711),
            requests: 3,
            request: Some(request()),
            ..Connection::default()
        };
        let worker = Worker { id: 7, info: request().info, active_connections: vec![connection], ..Worker::default() };
        let failure = Failure {
            how: "exit 1".into(),
            last_status: Some("SECRET".into()),
            log_tail: vec!["SECRET".into()],
            log_head: vec!["SECRET".into()],
            detail: Some("SECRET".into()),
            serving: vec![request()],
            ..Failure::default()
        };
        let document = Document { workers: vec![worker], failures: vec![failure], ..Document::default() };
        let line = without_details(&serde_json::to_string(&document).expect("JSON")).expect("JSON");
        assert!(!line.contains("SECRET") && !line.contains("4711") && line.ends_with("}\n"), "{line}");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(told["details_hidden"], json!(true));
        let worker = &told["workers"][0];
        assert_eq!((&worker["id"], &worker["info"]), (&json!(7), &Value::Null));
        let connection = &worker["active_connections"][0];
        assert_eq!((&connection["requests"], &connection["request"]["method"]), (&json!(3), &json!("GET")));
        let failure = &told["failures"][0];
        assert_eq!(
            (&failure["how"], &failure["log_tail"], &failure["serving"][0]["url"]),
            (&json!("exit 1"), &json!([]), &Value::Null)
        );
        // Our own reader accepts the result.
        serde_json::from_value::<Document>(told).expect("a document");
    }
}
