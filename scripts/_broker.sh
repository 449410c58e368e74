# shellcheck shell=bash disable=SC2154 # variables of _appliance.sh and of install
# A broker on this machine: mosquitto, for programs of this machine, with a password made on the spot. Read by scripts/install.

readonly broker_user=edge-agent

port_taken() { (exec 3<>/dev/tcp/127.0.0.1/1883) 2>/dev/null; }

# look_at_broker: says what is in the way, before anything is changed
look_at_broker() {
  local others
  if grep -qsF "$broker_mark" "$broker_conf"; then return; fi
  ! exists "$broker_conf" || die "$broker_conf is there and is not of this installation; move it away, or leave out --with-broker" "$EX_CONFIG"
  others=$(grep -lsE '^[[:space:]]*(listener|port|bind_address)' /etc/mosquitto/mosquitto.conf /etc/mosquitto/conf.d/*.conf || true)
  [ -z "$others" ] || die "a broker is set up here already (${others//$'\n'/, }); leave out --with-broker, and write its user and password into $etc" "$EX_CONFIG"
  if port_taken && ! systemctl -q is-active mosquitto 2>/dev/null; then
    die "port 1883 is taken by another program; leave out --with-broker, and write [mqtt] host and port into $etc/agent.toml" "$EX_CONFIG"
  fi
}

# make_password: a file that root alone may read, which the service gets through LoadCredential
make_password() {
  [ ! -s "$etc/mqtt_password" ] || return 0
  (umask 077 && head -c 18 /dev/urandom | base64 | tr '+/' '-_' >"$etc/mqtt_password.new")
  mv -f -- "$etc/mqtt_password.new" "$etc/mqtt_password"
}

set_up_broker() {
  make_password
  # mosquitto_passwd takes the password from its arguments, which others could read, or from a file that it turns into hashes.
  (umask 077 && printf '%s:%s\n' "$broker_user" "$(<"$etc/mqtt_password")" >"$broker_passwords.new")
  mosquitto_passwd -U "$broker_passwords.new"
  chown root:mosquitto "$broker_passwords.new" 2>/dev/null || true
  chmod 640 "$broker_passwords.new"
  mv -f -- "$broker_passwords.new" "$broker_passwords"
  cat >"$broker_conf.new" <<CONF
# $broker_mark For other machines, too: take out "127.0.0.1" (and use TLS: docs/appliance.md).
listener 1883 127.0.0.1
allow_anonymous false
password_file $broker_passwords
CONF
  mv -f -- "$broker_conf.new" "$broker_conf"
  if [ -d /run/systemd/system ]; then
    systemctl -q enable mosquitto
    systemctl restart mosquitto || die "mosquitto does not start: journalctl -u mosquitto"
  fi
}
