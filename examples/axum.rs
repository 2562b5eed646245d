//! A worker with axum: the program of the first recipe in docs/recipes.md, which a test compares with this.
use axum::{Router, routing::get};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    let listener = ratoon_worker::listen("127.0.0.1:8080")?;
    ratoon_worker::ready()?;
    ratoon_worker::serve_tower(listener, app).await
}
