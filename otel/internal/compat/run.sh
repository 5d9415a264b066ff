#!/usr/bin/env bash
# Checks that package tcpotel works with versions of OpenTelemetry other than
# the one this module requires. It needs the go command and a module proxy, and
# changes nothing in the checkout.
#
#	run.sh newest           tests of otel/ with the newest OpenTelemetry
#	run.sh log [version..]  builds a program that pins an older sdk/log, which no
#	                        longer compiles beside the otel/log of 1.47
#	run.sh                  both
set -euo pipefail

module=github.com/tcpstate/tcpstate-go
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOWORK=off

newest() {
	local mod=$work/newest.mod api=go.opentelemetry.io/otel
	cp "$root/go.mod" "$mod"
	cp "$root/go.sum" "$work/newest.sum"
	cd "$root"
	go get -modfile="$mod" -t ./otel/... \
		"$api@latest" "$api/metric@latest" "$api/trace@latest" "$api/sdk@latest" "$api/sdk/metric@latest"
	go list -modfile="$mod" -m "$api" "$api/sdk/metric"
	go test -modfile="$mod" -count=1 ./otel/...
}

log() {
	local version=$1 dir=$work/log-$1
	mkdir "$dir"
	cd "$dir"
	cat >main.go <<-EOF
		package main

		import (
			"context"
			"log"

			sdklog "go.opentelemetry.io/otel/sdk/log"

			tcpotel "$module/otel"
		)

		func main() {
			ctx := context.Background()
			logs := sdklog.NewLoggerProvider()
			defer logs.Shutdown(ctx)
			stop, err := tcpotel.Start()
			if err != nil {
				log.Fatal(err)
			}
			if err := stop(ctx); err != nil {
				log.Fatal(err)
			}
		}
	EOF
	go mod init example.test/consumer
	go mod edit \
		-require="$module@v0.0.0" -replace="$module=$root" \
		-require="go.opentelemetry.io/otel/sdk/log@$version"
	go mod tidy
	local got
	got=$(go list -m -f '{{.Version}}' go.opentelemetry.io/otel/sdk/log)
	if [[ $got != "$version" ]]; then
		echo "compat: sdk/log became $got, wanted $version" >&2
		return 1
	fi
	go run .
	echo "compat: ok with sdk/log $version"
}

what=${1:-all}
shift || true
case $what in
newest) newest ;;
log) for v in "${@:-v0.13.0}"; do log "$v"; done ;;
all)
	newest
	for v in v0.7.0 v0.13.0 v0.14.0; do log "$v"; done
	;;
*)
	echo "usage: $0 [newest | log [version...]]" >&2
	exit 2
	;;
esac
