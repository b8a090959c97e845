//! Links the guest as a freestanding ELF at a fixed address.
//!
//! Reads `link.ld`; the linker is the host's own, so every default meant for Linux programs is switched off here.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    let script = std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("link.ld");
    let arguments = [
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-Wl,-z,norelro",
        "-Wl,--gc-sections",
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
}
