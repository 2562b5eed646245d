//! The `ratoon` program: everything is in the library.

fn main() -> std::process::ExitCode {
    ratoon::cli::main()
}
