//! How the library is linked. The unwinder is in it by a feature of `plugin-abi`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Relative relocations take a bit each and not 24 bytes; glibc knows them from 2.36 on.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,pack-relative-relocs");
    // Our constructor before those of all other libraries: some work on files there.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,initfirst");
}
