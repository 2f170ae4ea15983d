//! The program `oxide-host`. All of it is in the library, where tests reach it.

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    oxide_host::cli::main()
}

#[cfg(not(unix))]
fn main() -> std::process::ExitCode {
    eprintln!("error: the program oxide-host needs Unix sockets; on this system, embed the library instead");
    std::process::ExitCode::FAILURE
}
