//! Lets profilers outside of the process find the thread's context (option `otel_context`): a program that wants it has this line.

fn main() {
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=otel_thread_ctx_v1");
}
