# Completion of this project's make and scripts in zsh: source it in ~/.zshrc, after compinit. In other folders make is
# completed as before.

typeset -g _dodeka_root=${${(%):-%x}:A:h:h}
[[ ${_comps[make]:-} == _dodeka_make ]] || typeset -g _dodeka_other=${_comps[make]:-_make}

_dodeka_reply() { # PROGRAM
    local -a found
    found=("${(@f)$($_dodeka_root/bin/complete.sh $1 "${(@)words[2,CURRENT-1]}" "$PREFIX")}")
    found=(${found:#})
    if (( ! $#found )); then
        compset -P '*='
        _files
        return
    fi
    compadd -S '' -- ${(M)found:#*=}
    compadd -- ${found:#*=}
}

_dodeka_make() {
    local folder=$PWD number
    for (( number = 2; number < CURRENT; number++ )); do
        case $words[number] in
            -C) folder=${words[number + 1]/#\~/$HOME} ;;
            -f | --file* | --makefile* | --directory*) folder= ;;
        esac
    done
    if [[ -n $folder && ${folder:A} == $_dodeka_root && $words[CURRENT-1] != -C ]]; then
        _dodeka_reply make
    else
        $_dodeka_other "$@"
    fi
}

_dodeka_script() {
    local program=${words[1]:t}
    [[ $program != *.sh ]] || program=${${:-$_dodeka_root/deploy/$program}:A:t}
    _dodeka_reply $program
}

compdef _dodeka_make make
compdef _dodeka_script $_dodeka_root/bin/dodeka-*.py(:t) $_dodeka_root/deploy/*.sh(:t)
