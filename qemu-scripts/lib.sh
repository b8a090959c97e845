# shellcheck shell=bash
# Shared by the scripts beside it: where downloads are kept, and how Debian packages get there without root rights.
# Sourced, never run. Functions print results on stdout, progress and errors on stderr.

# The real folder, also when a link leads to it.
repo=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# In the package dmus-card there are no sources: all is built, and what is fetched goes into the user's cache.
installed=''
if [[ -e $repo/Cargo.toml ]]; then
    target=${CARGO_TARGET_DIR:-$repo/target}
    [[ $target == /* ]] || target=$PWD/$target
else
    installed=$repo/bin
    target=${XDG_CACHE_HOME:-$HOME/.cache}/dmus-card
fi

# All packages come from one pair of suites, so that every machine runs the same QEMU and GRUB.
readonly SUITE=trixie BACKPORTS=trixie-backports

# What private_apt sees, the last one preferred; a script may have others.
suites=("$SUITE" "$BACKPORTS")

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Exit 3 means "this machine lacks something"; 1 and 2 stay free for faults and wrong usage.
lacking() {
    say "$@"
    exit 3
}

# with_lock NAME COMMAND...: only one process at a time runs COMMAND under NAME. Two first calls at once then download once.
with_lock() {
    local file=$target/qemu/$1.lock
    shift
    mkdir -p "${file%/*}"
    (
        # A download takes minutes on a slow line; past this the holder hangs, and waiting longer would hide it.
        flock --timeout 1800 9 || lacking "another download has held $file for half an hour; end it and try again"
        # Children must not inherit the lock: a forgotten one would hold it for ever.
        "$@" 9>&-
    ) 9>"$file"
}

# own_apt WORK: this machine's own sources and keys, but with package lists inside WORK, freshly read.
own_apt() {
    local work=$1
    mkdir -p "$work/own/lists/partial" "$work/own/cache/archives/partial"
    printf '%s\n' '#clear APT::Update;' "Dir::State \"$work/own\";" "Dir::Cache \"$work/own/cache\";" \
        'APT::Sandbox::User "";' 'Acquire::Languages "none";' 'Acquire::Retries "3";' >"$work/own.conf"
    retry apt-get -c "$work/own.conf" -qq update >&2
}

# main_archive [APT-OPTION...]: the address of the Debian archive in apt's view, empty if it has no lists of it.
main_archive() {
    # The label tells the main archive from security and from third parties.
    # shellcheck disable=SC2016 # apt's variables, not the shell's
    apt-get "$@" indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n 's/^Debian|Debian|//p' | head -n 1
}

# archive_address WORK: the Debian archive that this machine's own apt uses, so that mirrors and proxies are respected.
archive_address() {
    local address
    address=$(main_archive)
    if [[ -z $address ]]; then
        # Without package lists apt names no addresses (a fresh container).
        say "this machine has no package lists yet: reading them privately"
        own_apt "$1" || say "not all of this machine's package lists could be read"
        address=$(main_archive -c "$1/own.conf")
    fi
    [[ -n $address ]] && printf '%s\n' "$address"
}

# archive_keyring [ROOT]: the keys of the Debian archive, named .gpg up to Debian 12 and .pgp too since.
archive_keyring() {
    local file
    for file in "${1:-}"/usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ -s $file ]] && printf '%s\n' "$file" && return
    done
}

# apt_usable: says on stderr why apt can't be used here, and fails; silent if it can.
apt_usable() {
    local tool
    [[ $(uname -s)/$(uname -m) == Linux/x86_64 ]] || { say "packages are fetched only on x86-64 Linux"; return 1; }
    for tool in apt-get dpkg flock; do
        command -v "$tool" >/dev/null || { say "$tool is not installed: packages are fetched only on Debian"; return 1; }
    done
    [[ -n $(archive_keyring) ]] ||
        { say "the Debian archive keyring is missing: packages are fetched only on Debian"; return 1; }
}

# private_apt WORK ARCHIVE KEYRING: writes an apt set-up of its own into WORK, which sees `suites` and no installed package.
private_apt() {
    local work=$1 archive=$2 keyring=$3 suite
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    : >"$work/status"
    for suite in "${suites[@]}"; do
        printf 'deb [arch=amd64 target=Packages signed-by=%s] %s %s main\n' "$keyring" "$archive" "$suite"
    done >"$work/sources.list"
    # The machine's own settings stay in force (proxies, certificates) but not its hooks, pins and lists.
    cat >"$work/apt.conf" <<CONF
#clear APT::Update;
#clear DPkg;
Dir::State "$work/state";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Default-Release "${suites[-1]}";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
}

# newer_keyring WORK: this release's latest keyring, verified by the keys already here. An installed one may be older than those of `suites`.
newer_keyring() {
    local work=$1
    own_apt "$work" && mkdir -p "$work/keyring" && cd "$work/keyring" &&
        apt-get -c "$work/own.conf" -qq download debian-archive-keyring >&2 && dpkg -x ./*.deb . && archive_keyring "$PWD"
}

# fetch_packages ROOT CHECK PACKAGE...: makes the directory ROOT, holding PACKAGEs and everything they need, unpacked. CHECK is called
# with the directory before it gets its name, so a ROOT that exists is complete and works. What the pattern `unneeded` names, if there is one, is
# left out. A script may have a function of its own in `unpack`, called with the working directory: it puts into WORK/root what becomes ROOT.
fetch_packages() {
    [[ ! -d $1 ]] || return 0
    apt_usable && with_lock fetch fetch_locked "$@"
}

fetch_locked() {
    local root=$1 check=$2 work archive keyring
    shift 2
    # Another process may have been quicker.
    [[ ! -d $root ]] || return 0
    # What an interrupted download left; the lock says that nobody is using it.
    rm -rf "$root".partial.*
    work=$(mktemp -d "$root.partial.XXXXXX") || return 3
    # shellcheck disable=SC2064 # the directory of this call, not of a later one
    trap "rm -rf '$work'" EXIT
    trap 'exit 130' INT TERM HUP

    archive=$(archive_address "$work") || {
        say "this machine's apt names no Debian archive (or can't reach it): is this Debian, and is the network up?"
        return 3
    }
    keyring=$(archive_keyring)
    private_apt "$work" "$archive" "$keyring"
    say "reading the package lists of ${suites[*]}"
    if ! private_update "$work"; then
        if ! grep -q NO_PUBKEY "$work/log"; then
            sort -u "$work/log" >&2
            say "the package lists of ${suites[*]} can't be read: is the network up?"
            return 3
        fi
        say "the archive's keys are newer than this machine's: fetching its keyring package"
        keyring=$(newer_keyring "$work")
        private_apt "$work" "$archive" "$keyring"
        private_update "$work" || {
            sort -u "$work/log" >&2
            say "the Debian archive keyring here doesn't sign ${suites[*]}: upgrade the package debian-archive-keyring"
            return 3
        }
    fi

    say "downloading $* and their libraries"
    download "$work" "$@" || {
        say "the download failed: is the network up, and has the disk room in $target?"
        return 3
    }
    # Every step is checked by hand: the shell's `set -e` is off in a function whose status the caller tests.
    mkdir "$work/root" || return 3
    "${unpack:-unpack_packages}" "$work" || return 3
    "$check" "$work/root" || return 3
    mv "$work/root" "$root" || return 3
}

# unpack_packages WORK: what was downloaded, into WORK/root.
unpack_packages() {
    local deb
    for deb in "$1"/cache/archives/*.deb; do
        dpkg -x "$deb" "$1/root" || { say "unpacking ${deb##*/} failed: is the disk full?"; return 1; }
    done
}

# download WORK PACKAGE...: into the cache of WORK, with everything they need.
download() {
    local work=$1 packages
    shift
    if [[ -z ${unneeded:-} ]]; then
        retry apt-get -c "$work/apt.conf" -qq --yes --download-only install "$@" >&2
        return
    fi
    packages=$(apt-get -c "$work/apt.conf" -qq --yes --simulate install "$@" | sed -n 's/^Inst \([^ ]*\) .*/\1/p' | grep -Ev "$unneeded") || return
    mapfile -t packages <<<"$packages"
    (cd "$work/cache/archives" && retry apt-get -c "$work/apt.conf" -qq download "${packages[@]}" >&2)
}

# apt-get update reports a source that it could not reach as a warning only: an error mode makes that a failure.
private_update() {
    retry apt-get -c "$1/apt.conf" -o APT::Update::Error-Mode=any -qq update >"$1/log" 2>&1
}

# Networks fail for seconds at a time; apt's own retries don't cover a name that doesn't resolve.
retry() {
    local pause
    for pause in 2 5 ''; do
        "$@" && return
        [[ -n $pause ]] || return 1
        sleep "$pause"
    done
}

# in_root ROOT: how to run a program of ROOT, one word a line: through its own loader, since its libc is newer than the machine's.
in_root() {
    printf '%s\n' "$1/usr/lib64/ld-linux-x86-64.so.2" --library-path "$1/usr/lib/x86_64-linux-gnu"
}

# Up to date builds are silent; cargo's progress goes to a terminal only.
quiet=()
[[ -t 2 ]] || quiet=(--quiet)

# build_runner: sets `runner` to the release build of dmus-run, with the card's beside it.
build_runner() {
    # shellcheck disable=SC2034 # for the script that sources this
    runner=${installed:-$target/release}/dmus-run
    [[ -z $installed ]] || return 0
    cargo build --release "${quiet[@]}" --locked --manifest-path "$repo/Cargo.toml" --target-dir "$target" -p dmus-card -p dmus-runner
}

# build_guest: sets `guest_elf` to the release build of the bare-metal guest; with DMUS_GUEST_DEBUG=1 to one with debug information and frame
# pointers, which is another file.
build_guest() {
    # shellcheck disable=SC2034 # for the script that sources this
    guest_elf=$installed/dmus-player
    [[ -z $installed ]] || return 0
    if [[ ${DMUS_GUEST_DEBUG:-} == 1 ]]; then
        CARGO_PROFILE_RELEASE_DEBUG=2 RUSTFLAGS='-C force-frame-pointers=yes' cargo build --release "${quiet[@]}" --locked \
            --manifest-path "$repo/images/bare-metal/Cargo.toml" --target-dir "$target/guest-debug"
        guest_elf=$target/guest-debug/release/dmus-player
        return
    fi
    cargo build --release "${quiet[@]}" --locked --manifest-path "$repo/images/bare-metal/Cargo.toml" --target-dir "$target/guest" || return
    guest_elf=$target/guest/release/dmus-player
}

# build_dmusd: sets `dmusd` to the release build of the driver's program, with ALSA; with DMUS_GUEST_DEBUG=1 to one with debug information and frame
# pointers, which is another file.
build_dmusd() {
    local alsa
    # shellcheck disable=SC2034 # for the script that sources this
    dmusd=$(dmusd_file)
    [[ -z $installed ]] || return 0
    link_alsa
    # That library was linked with a newer C library than this machine's, perhaps; what it wants of it is in the image.
    local arguments=("${quiet[@]}" --release --locked --manifest-path "$repo/Cargo.toml" "${alsa[@]}" -p dmus-driver-vfio --features alsa --bin dmusd)
    local linking=(-- -C 'link-arg=-Wl,--allow-shlib-undefined')
    if [[ ${DMUS_GUEST_DEBUG:-} == 1 ]]; then
        CARGO_PROFILE_RELEASE_DEBUG=2 CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS='-C force-frame-pointers=yes' \
            cargo rustc "${arguments[@]}" --target-dir "$target/linux-debug" "${linking[@]}"
    else
        cargo rustc "${arguments[@]}" --target-dir "$target" "${linking[@]}"
    fi
}

# dmusd_file: what build_dmusd makes.
dmusd_file() {
    local debug=''
    [[ ${DMUS_GUEST_DEBUG:-} != 1 ]] || debug=/linux-debug
    printf '%s\n' "${installed:-$target$debug/release}/dmusd"
}

# The symbols of dmusd in the Linux guest: where the kernel puts it without randomisation, which the runner asks for.
dmusd_symbols() { printf '%s@0x555555554000\n' "$(dmusd_file)"; }

# link_alsa: sets `alsa` to the options of cargo that have ALSA's library be the image's own, so that this machine needs neither it nor pkg-config:
# what its build script would find out is said here.
link_alsa() {
    local libraries links=$target/linux-links about=target.x86_64-unknown-linux-gnu.alsa
    libraries=$("$repo/images/linux/build" --libraries)
    mkdir -p "$links"
    ln -sfn "$libraries/libasound.so.2" "$links/libasound.so"
    alsa=(--config "$about.rustc-link-lib=['asound']" --config "$about.rustc-link-search=['native=$links']")
}

# image_of ARGUMENT...: what --image says, elf without it.
image_of() {
    local image=elf
    while (($# > 0)); do
        case $1 in
            --image) image=${2:-} ;;
            --image=*) image=${1#*=} ;;
        esac
        shift
    done
    printf '%s\n' "$image"
}

# culprit_wanted ARGUMENT...: whether one of them wants the plugin of QEMU: --culprit, or --check stop.
culprit_wanted() {
    local argument before=
    for argument; do
        [[ $argument != --culprit && $argument != --check=stop && $before$argument != --checkstop ]] || return 0
        before=$argument
    done
    return 1
}

# guest_named ARGUMENT...: whether one of them is --guest.
guest_named() {
    local argument
    for argument; do
        [[ $argument != --guest && $argument != --guest=* ]] || return 0
    done
    return 1
}

# build_plugin: builds the plugin of QEMU that --culprit and --check stop load, beside the runner.
build_plugin() {
    [[ -z $installed ]] || return 0
    cargo build --release "${quiet[@]}" --locked --manifest-path "$repo/Cargo.toml" --target-dir "$target" -p dmus-plugin
}

# accelerator ARGUMENT...: QEMU's accelerator; with a plugin software emulation, unless the user has chosen.
accelerator() {
    if culprit_wanted "$@" && [[ -z ${DMUS_ACCEL:-} ]]; then
        echo tcg
    else
        "$repo/qemu-scripts/qemu" --accel
    fi
}

# supervise COMMAND ARGUMENT...: builds card, runner and the guest that --image names, gets QEMU if need be, and runs `dmus-run COMMAND`
# with all of it, in this process's place but for its end.
supervise() {
    local scripts=$repo/qemu-scripts booted=() more=() accel image images status=0
    image=$(image_of "$@")
    [[ -n $installed ]] || say 'building'
    build_runner
    if culprit_wanted "$@"; then
        build_plugin
        export DMUS_GUEST_DEBUG=1
    fi
    "$scripts/qemu" --find || exit 4
    case $image in
        linux)
            # The image that others boot keeps the usual dmusd.
            images=$target/linux
            ! culprit_wanted "$@" || images=$target/linux-debug/image
            "$repo/images/linux/build" --dmusd -o "$images"
            booted=(--guest "$images/vmlinux")
            more=(--initrd "$images/initrd")
            ! culprit_wanted "$@" || more+=(--symbols "$(dmusd_symbols)")
            ;;
        *)
            if ! guest_named "$@"; then
                build_guest
                booted=(--guest "$guest_elf")
            fi
            ;;&
        iso*)
            booted=(--guest "$target/dmus-player.iso")
            "$scripts/iso" -o "$target/dmus-player.iso"
            ;;&
        iso*) ! culprit_wanted "$@" || more+=(--symbols "$guest_elf") ;;&
        iso-uefi) more+=(--firmware "$("$scripts/qemu" --firmware)") ;;
    esac
    accel=$(accelerator "$@")
    # Not exec: if the program is killed, somebody must still say so.
    "$runner" "$1" --qemu "$scripts/qemu" --accel "$accel" "${booted[@]}" "${more[@]}" "${@:2}" || status=$?
    ((status < 128 || status == 130)) || say "dmus-run was killed (status $status); an audio file that was written is valid as far as it got"
    exit "$status"
}

# help_wanted ARGUMENT...: whether one of them asks for help.
help_wanted() {
    local argument
    for argument; do
        [[ $argument != -h && $argument != --help ]] || return 0
    done
    return 1
}
