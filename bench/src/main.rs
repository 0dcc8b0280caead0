//! The program `conclave-bench`. Called with `conclave` as its first word it is the server itself, so that what is
//! measured is exactly what was built with the generator.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == "conclave") {
        return conclave::main_with(std::iter::once("conclave".into()).chain(words));
    }
    conclave_bench::cli::main()
}
