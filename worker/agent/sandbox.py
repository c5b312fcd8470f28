"""The command line of bubblewrap (bwrap(1)): a read-only system, one writable folder, no network, nothing else.

What is not named here does not exist inside: no home folders, no state, sockets or credentials of the service, no
other processes, no device but the harmless ones.
"""

from collections.abc import Sequence

from msgspec import Struct

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix/store")
"""Read-only, where there are such."""
HIDDEN = ("/etc/kimi-proxy", "/etc/ssl/private", "/etc/ssh", "/etc/sudoers.d", "/etc/wireguard")
"""…but not this; only folders."""
RESOLVERS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
"""Where /etc/resolv.conf may lead: needed with the network."""


class Sandbox(Struct, frozen=True, kw_only=True):
    """One that works here (`worker.agent.probe`)."""

    bwrap: str
    workspace: str
    """Absolute."""
    network: bool
    hidden: tuple[str, ...] = ()
    """Those of `HIDDEN` that exist: a mount point can't be made in a read-only folder."""

    def wrap(self, argv: Sequence[str], secrets: Sequence[str] = (), beneath: Sequence[str] = ()) -> tuple[str, ...]:
        """The command line that runs `argv` inside, in the workspace; `secrets` are files that can't be read there.

        It begins in a folder `beneath` the workspace; where that has become a link, in what it leads to in here.

        Its processes have a pid namespace that ends with the first of them, and with the process that started bwrap.
        """
        options = ["--die-with-parent", "--new-session", "--unshare-all", "--cap-drop", "ALL"]
        for path in SYSTEM:
            options += ["--ro-bind-try", path, path]
        if self.network:
            options.append("--share-net")
            for path in RESOLVERS:
                options += ["--ro-bind-try", path, path]
        for path in self.hidden:
            options += ["--tmpfs", path]
        options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp"]
        options += ["--bind", self.workspace, self.workspace, "--chdir", "/".join((self.workspace, *beneath))]
        for path in secrets:
            options += ["--ro-bind", "/dev/null", path]
        options += ["--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"]
        return (self.bwrap, *options, "--", *argv)
