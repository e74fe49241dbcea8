#!/bin/sh
# scripts/ci_example.sh CHECKPOINT DATA MASKS OUT [REPORT OPTIONS]: a CI job in shell: diagnose, treat, report, gate.
# REPORT OPTIONS are gates, such as --fail-under accuracy=0.9 --fail-on 'isolated>0.05'; a gate not met exits with 4.
# TREAT holds further options of `modeldoctor treat`, such as --set=training.epochs=2; MODELDOCTOR the command's name.
set -eu
checkpoint=$1 data=$2 masks=$3 out=$4
shift 4
modeldoctor=${MODELDOCTOR:-modeldoctor}

mkdir -p "$out"
# shellcheck disable=SC2086 # MODELDOCTOR and TREAT may hold several words.
$modeldoctor diagnose "$checkpoint" --data "$data" --masks "$masks" --layers last,features -o "$out/diagnosis.h5" --json >"$out/summary.json"

cat >"$out/treat.yaml" <<YAML
checkpoint: '$checkpoint'
data: {path: '$data', masks: '$masks'}
diagnosis: '$out/diagnosis.h5'
output: '$out/run'
YAML
# shellcheck disable=SC2086
$modeldoctor treat --config "$out/treat.yaml" ${TREAT:-}

# The report is written before gates are evaluated, so that a failed job shows it, too; on GitHub in its summary.
# shellcheck disable=SC2086
$modeldoctor report "$out/run" ${GITHUB_STEP_SUMMARY:+--github} "$@"
