#!/bin/sh
# Checks that the programs which building and testing need are there, and installs those that are missing on Debian and Ubuntu.
# Elsewhere, without the right to, or with DAYPASS_NO_INSTALL=1, it names the command that installs them and exits with 1.
# The tests start servers of their own from the installed programs: no service of the system is needed. What Debian's packages start by
# themselves is kept from starting: PostgreSQL's by its own setting, sshd by a marker that the package heeds.
set -eu
cd "$(dirname "$0")/.."
log=build/deps.log
missing=''
cannot=''

ok() { printf 'ok       %-16s %s\n' "$1" "$2"; }

# need NAME WHERE: prints a line for what stands at WHERE, or counts NAME as missing where that is empty.
need() {
	if [ -n "$2" ]; then
		ok "$1" "$2"
	else
		printf 'missing  %s\n' "$1"
		missing="$missing $1"
	fi
}

have() { command -v "$1" 2>/dev/null || true; }

first() {
	for path in "$@"; do
		if [ -e "$path" ]; then
			printf '%s\n' "$path"
			return
		fi
	done
}

c_headers() {
	compiler=$(have cc)
	if [ -n "$compiler" ] && echo '#include <stdlib.h>' | "$compiler" -E - >/dev/null 2>&1; then
		echo 'stdlib.h'
	fi
}

# postgres prints version and folder of the newest server programs; broker/devkit looks in the same places.
postgres() {
	newest=0
	found=''
	in_path=$(have postgres)
	for dir in ${DAYPASS_PG_BIN:-/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/lib/postgresql[0-9]*/bin /usr/libexec/postgresql[0-9]* \
		/opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /home/linuxbrew/.linuxbrew/opt/postgresql*/bin \
		/Applications/Postgres.app/Contents/Versions/[0-9]*/bin /Library/PostgreSQL/[0-9]*/bin ${in_path%/postgres}}; do
		if [ ! -x "$dir/postgres" ] || [ ! -x "$dir/initdb" ]; then
			continue
		fi
		version=$("$dir/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9.]*\).*/\1/p')
		if [ "${version%%.*}" -gt "$newest" ] 2>/dev/null; then
			newest=${version%%.*}
			found="$version  $dir"
		fi
	done
	echo "$found"
}

check() {
	missing=''
	if [ -n "$(have go)" ]; then
		ok go "$(go env GOVERSION)  $(have go)"
	else
		echo 'missing  go'
		cannot=go
	fi
	need cc "$(have cc)"
	need c-headers "$(c_headers)"
	need postgres "$(postgres)"
	need psql "$(have psql)"
	need softhsm "$(first /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
		/usr/lib64/softhsm/libsofthsm.so /usr/local/lib/softhsm/libsofthsm2.so /opt/homebrew/lib/softhsm/libsofthsm2.so)"
	need softhsm2-util "$(have softhsm2-util)"
	need ssh "$(have ssh)"
	need sshd "$(first /usr/sbin/sshd /usr/local/sbin/sshd /opt/homebrew/sbin/sshd)"
	need openssl "$(have openssl)"
	need git "$(have git)"
	# Single tests ask for these, and are skipped where they are missing; so they are only where they can be had for certain.
	if [ -n "$(have apt-get)" ]; then
		need pgbouncer "$(first /usr/sbin/pgbouncer /usr/local/sbin/pgbouncer)"
		need node "$(have node)"
		need jq "$(have jq)"
		need shellcheck "$(have shellcheck)"
	fi
	need curl "$(have curl)"
	need ca-certificates "$(first /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem)"
}

# packages MANAGER: what the missing things are called there.
packages() {
	for item in $missing; do
		case $1:$item in
		brew:cc | brew:c-headers) echo gcc ;;
		*:cc) echo gcc ;;
		apt-get:c-headers) echo libc6-dev ;;
		dnf:c-headers) echo glibc-devel ;;
		apk:c-headers) echo musl-dev ;;
		dnf:postgres) echo postgresql-server ;;
		brew:postgres) echo postgresql@18 ;;
		*:postgres) echo postgresql ;;
		dnf:psql) echo postgresql ;;
		brew:psql) echo libpq ;;
		*:psql) echo postgresql-client ;;
		*:node) echo nodejs ;;
		apt-get:ssh) echo openssh-client ;;
		apt-get:sshd | apk:sshd) echo openssh-server ;;
		dnf:ssh) echo openssh-clients ;;
		dnf:sshd) echo openssh-server ;;
		apk:ssh) echo openssh-client ;;
		brew:ssh | brew:sshd) echo openssh ;;
		apt-get:softhsm*) echo softhsm2 ;;
		*:softhsm*) echo softhsm ;;
		*) echo "$item" ;;
		esac
	done | sort -u | tr '\n' ' '
}

give_up() {
	echo "$1" >&2
	exit 1
}

# install_apt SUDO PACKAGE...: SUDO is empty or what to put in front.
install_apt() {
	sudo=$1
	shift
	# The first server package makes a cluster on port 5432 and starts it, unless told not to.
	case " $* " in
	*' postgresql '*)
		$sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends postgresql-common
		conf=/etc/postgresql-common/createcluster.conf
		line='create_main_cluster = false'
		if grep -q "^include_dir '/etc/postgresql-common/createcluster.d'" "$conf"; then
			$sudo mkdir -p /etc/postgresql-common/createcluster.d
			conf=/etc/postgresql-common/createcluster.d/daypass.conf
		fi
		grep -qsx "$line" "$conf" || echo "$line" | $sudo tee -a "$conf"
		;;
	esac
	# sshd would be started too, and let people in. The package's services heed this file.
	case " $* " in
	*' openssh-server '*)
		$sudo mkdir -p /etc/ssh
		echo "Daypass's tests run an sshd of their own. Remove this file to let the system's start." | $sudo tee /etc/ssh/sshd_not_to_be_run
		;;
	esac
	# PgBouncer too; its service is masked, which `systemctl unmask pgbouncer` undoes.
	case " $* " in
	*' pgbouncer '*)
		if [ -d /etc/systemd/system ] && [ ! -e /etc/systemd/system/pgbouncer.service ]; then
			$sudo ln -s /dev/null /etc/systemd/system/pgbouncer.service
		fi
		;;
	esac
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

check
if [ -n "$cannot" ]; then
	give_up 'hint: install Go as in go.mod or later, see https://go.dev/dl'
fi
[ -n "$missing" ] || exit 0

manager=''
for m in apt-get dnf apk brew; do
	if [ -n "$(have "$m")" ]; then
		manager=$m
		break
	fi
done
list=$(packages "$manager")
list=${list% }
case $manager in
apt-get) command="apt-get update && apt-get install -y --no-install-recommends $list" ;;
dnf) command="dnf install -y $list" ;;
apk) command="apk add $list" ;;
brew) give_up "hint: brew install $list" ;;
*) give_up "hint: install what is missing:$missing (PostgreSQL's server programs, SoftHSM 2)" ;;
esac
if [ "${DAYPASS_NO_INSTALL:-0}" = 1 ] || [ "$manager" != apt-get ]; then
	give_up "hint: as root: $command"
fi
sudo=''
if [ "$(id -u)" != 0 ]; then
	sudo -n true 2>/dev/null || give_up "hint: as root: $command
      or: sudo sh scripts/deps.sh, which also keeps the packages from starting servers on ports 5432 and 22"
	sudo='sudo -n'
fi

mkdir -p build
echo "installing $list (log: $log)"
# In a shell of its own, since `set -e` is off inside a condition.
set +e
(
	set -e
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update
	# shellcheck disable=SC2086 # the list is words
	install_apt "$sudo" $list
) >"$log" 2>&1 </dev/null
status=$?
set -e
if [ "$status" != 0 ]; then
	cat "$log" >&2
	give_up "hint: apt-get ended with $status; as root: $command"
fi
check
[ -z "$missing" ] || give_up "hint: still missing after the installation:$missing"
