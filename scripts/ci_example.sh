#!/bin/sh
# scripts/ci_example.sh CHECKPOINT DATA MASKS OUT [REPORT OPTIONS]: a CI job in shell: diagnose, treat, report, gate.
# MASKS may be '', for none. REPORT OPTIONS are gates, such as --fail-under accuracy=0.9 --fail-on 'isolated>0.05'; a
# gate not met exits with 4. PREPROCESSING holds what diagnose and treat must both be told of the network, such as
# "--input-size=96 --mean=0.5 --std=0.25 --crop-pct=1.0 --resize-mode=squash"; TREAT further options of `modeldoctor
# treat`, such as --set=training.epochs=2; MODELDOCTOR the command's name.
set -eu
checkpoint=$1 data=$2 masks=$3 out=$4
shift 4
modeldoctor=${MODELDOCTOR:-modeldoctor}
network=${PREPROCESSING:-}

mkdir -p "$out"
# shellcheck disable=SC2086 # MODELDOCTOR, PREPROCESSING and TREAT may hold several words.
$modeldoctor diagnose "$checkpoint" --data "$data" ${masks:+--masks "$masks"} --layers last,features $network \
  -o "$out/diagnosis.h5" --json >"$out/summary.json"

given=null
[ -z "$masks" ] || given="'$masks'"
cat >"$out/treat.yaml" <<YAML
checkpoint: '$checkpoint'
data: {path: '$data', masks: $given}
diagnosis: '$out/diagnosis.h5'
output: '$out/run'
YAML
# shellcheck disable=SC2086
$modeldoctor treat --config "$out/treat.yaml" $network ${TREAT:-}

# The report is written before gates are evaluated, so that a failed job shows it, too; on GitHub in its summary.
# shellcheck disable=SC2086
$modeldoctor report "$out/run" ${GITHUB_STEP_SUMMARY:+--github} "$@"
