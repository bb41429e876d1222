//! The name of this system.

use std::fs;
use std::sync::OnceLock;

/// This system, as RedisGears 1.x names it: `linux-bookworm-x64`.
pub(super) fn os() -> &'static str {
    static OS: OnceLock<String> = OnceLock::new();
    OS.get_or_init(|| {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        os_of(&release, std::env::consts::ARCH)
    })
}

fn os_of(release: &str, arch: &str) -> String {
    let field = |name: &str| {
        let mut lines = release.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    let version = || field("VERSION_ID").unwrap_or_default();
    let id = || field("ID").map(|id| id + &version());
    let name = field("VERSION_CODENAME").filter(|name| !name.is_empty());
    let name = name.or_else(id).unwrap_or_else(|| "unknown".into());
    let arch = match arch {
        "x86_64" => "x64",
        "aarch64" => "arm64v8",
        other => other,
    };
    format!("{}-{name}-{arch}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_named_as_in_redisgears() {
        let debian = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(os_of(debian, "x86_64"), "linux-bookworm-x64");
        let rocky = "ID=\"rocky\"\nVERSION_ID=\"9.3\"\n";
        assert_eq!(os_of(rocky, "aarch64"), "linux-rocky9.3-arm64v8");
        assert_eq!(os_of("", "riscv64"), "linux-unknown-riscv64");
    }
}
