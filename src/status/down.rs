//! Whether nobody serves although somebody should, which `ratoon status`, `ratoon top` and the page tell in the same way.

use super::tree::Document;

/// Whether the pool has no ready worker, and neither a pause, an idle pool, a stop nor a first start without a failure explains it.
pub fn is_down(document: &Document) -> bool {
    let first_start = document.state == "starting" && !document.degraded && document.worker_crashes == 0;
    let wanted = document.workers_ready == 0 && document.workers_configured > 0;
    wanted && !document.paused && !document.idle && document.state != "stopping" && !first_start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_down_unless_the_state_explains_it() {
        let down = Document { state: "running".into(), workers_configured: 2, ..Document::default() };
        assert!(is_down(&down));
        assert!(is_down(&Document { state: "starting".into(), worker_crashes: 1, ..down.clone() }));
        assert!(is_down(&Document { state: "reloading".into(), ..down.clone() }));
        assert!(!is_down(&Document { state: "starting".into(), ..down.clone() }), "the first start goes on");
        assert!(!is_down(&Document { state: "stopping".into(), ..down.clone() }));
        assert!(!is_down(&Document { paused: true, ..down.clone() }));
        assert!(!is_down(&Document { idle: true, ..down.clone() }));
        assert!(!is_down(&Document { workers_ready: 1, ..down.clone() }));
        assert!(!is_down(&Document { workers_configured: 0, ..down }));
    }
}
