//! Prints the C header: `cargo run -p plugin-abi --example header`.

fn main() {
    print!("{}", plugin_abi::header::text());
}
