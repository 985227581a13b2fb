# Completion of this project's make and scripts in bash: source it in ~/.bashrc. In other folders make is completed as before.

_dodeka_root=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")

# The words up to the cursor, by spaces: bash itself also breaks them at = and :.
_dodeka_words() {
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra dodeka_words <<<"$line"
    [[ $line != *[[:space:]] ]] || dodeka_words+=("")
}

_dodeka_reply() { # PROGRAM
    local current=${dodeka_words[-1]} quotes
    COMPREPLY=()
    quotes=${COMP_LINE:0:COMP_POINT}
    quotes=${quotes//[^\'\"]/}
    ((${#quotes} % 2 == 0)) || return 0 # inside a quoted text
    mapfile -t COMPREPLY < <("$_dodeka_root/bin/complete.sh" "$1" "${dodeka_words[@]:1}")
    [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace
    # bash replaces only what is behind the =
    [[ $current != *=* || $COMP_WORDBREAKS != *=* ]] || COMPREPLY=("${COMPREPLY[@]#*=}")
}

_dodeka_make() {
    local dodeka_words folder=$PWD number
    _dodeka_words
    for ((number = 1; number < ${#dodeka_words[@]} - 1; number++)); do
        case ${dodeka_words[number]} in
            -C) folder=${dodeka_words[number + 1]/#\~/$HOME} ;;
            -f | --file* | --makefile* | --directory*) folder='' ;;
        esac
    done
    if [[ -n $folder && $(realpath "$folder" 2>/dev/null) == "$_dodeka_root" && ${dodeka_words[-2]} != -C ]]; then
        _dodeka_reply make
        return
    fi
    _dodeka_find_other
    if [[ -n $_dodeka_other ]]; then
        compopt +o default +o bashdefault
        "$_dodeka_other" "$@"
    fi
}

# The function that completes make in all other folders; bash-completion loads it when it is first needed.
_dodeka_find_other() {
    [[ ! -v _dodeka_other ]] || return 0
    local specification
    complete -r make
    if declare -F _comp_load >/dev/null; then
        _comp_load make
    elif declare -F _completion_loader >/dev/null; then
        _completion_loader make
    fi
    specification=$(complete -p make 2>/dev/null)
    _dodeka_other=
    [[ ! $specification =~ -F\ ([^ ]+) ]] || _dodeka_other=${BASH_REMATCH[1]}
    complete -o default -o bashdefault -F _dodeka_make make
}

_dodeka_script() {
    local dodeka_words program
    _dodeka_words
    program=$(basename "$(realpath "$_dodeka_root/bin/${1##*/}")")
    [[ $1 != *.sh ]] || program=$(basename "$(realpath "$_dodeka_root/deploy/${1##*/}")")
    _dodeka_reply "$program"
}

if [[ $(complete -p make 2>/dev/null) =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _dodeka_make ]]; then
    _dodeka_other=${BASH_REMATCH[1]}
fi
complete -o default -o bashdefault -F _dodeka_make make
for _dodeka_file in "$_dodeka_root"/bin/dodeka-*.py "$_dodeka_root"/deploy/*.sh; do
    complete -o default -o bashdefault -F _dodeka_script "${_dodeka_file##*/}"
done
unset _dodeka_file
