#!/bin/sh
# Makes the random secrets that deploy/compose.yaml wants, in deploy/secrets/ (or the folder given). What is there stays.
# 生成随机密钥; 已有的保持不变. Keep a copy of `pseudonyms` elsewhere: without it the same card gets another pseudonym.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder/broker"
chmod 700 "$folder"
# Containers run as other users than you and see single files of the folder: those are readable, the folder is not.
chmod 777 "$folder/broker"

random() { # 256 bits as hexadecimal digits
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

keep() { # NAME TEXT: a file that is not there yet
    if [ -s "$folder/$1" ]; then
        echo "  保留 kept     $1"
        return 0
    fi
    printf '%s\n' "$2" > "$folder/$1.part"
    chmod 444 "$folder/$1.part"
    mv "$folder/$1.part" "$folder/$1"
    echo "  新建 made     $1"
}

echo "$folder:"
keep pseudonyms "$(random)"
keep people "operator: $(random)"
keep mqtt_password "$(random)"
keep influx_password "$(random)"
keep influx_admin_token "$(random)"
keep grafana_password "$(random)"
if [ ! -s "$folder/broker/ca.pem" ]; then
    echo "下一步 / next: docker compose -f deploy/compose.yaml run --rm broker-config"
fi
