# tier: ci
# minutes: 6
# A sample of wrong-inputs-long: each gives a clear error and the right exit code, and changes nothing.
export SAMPLE=60
source /usr/local/lib/mvm-e2e/wrong-inputs.sh
